"""PCK and match residual by hand."""

from dataclasses import replace

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.evaluation.evaluate import make_methods
from sfam_bench.explainers.pair_x import PairX
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.metrics.matches import PCK, MatchResidual, PartMatches, affine_residual, cells_of, centres
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny

GRID = (4, 5)
CELLS = 20


class Hidden:
    """Images of which no part is visible."""

    parts = evidence = ("left",)
    aspects = ()

    def __init__(self, shown):
        self.shown = shown

    def part_masks(self, image_id):
        return torch.zeros_like(self.shown.part_masks(image_id))

    def redraw(self, image_id, parts, number):
        return self.shown.redraw(image_id, parts, number)


def seen_with(joint, query, reference, box=None):
    """One pair of 37 x 51 with these values of 4 x 5 positions, and parts as (x, y, visible)."""
    batch = pairs(1)
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    rows, cols = box or (20, 40)
    mask[:, :rows, :cols] = True
    points = [torch.tensor(side, dtype=torch.float32)[None] for side in (query, reference)]
    batch = replace(batch, keypoints=points[0], reference_keypoints=points[1], masks={"box": mask})
    model = tiny(*SETUPS[0])
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    values = joint.view(1, *GRID, *GRID)
    return Explained(scene, torch.rand(1, *SIZE), point_pairs=lambda: values)


def test_the_centre_of_each_cell_and_the_cell_of_each_point():
    places = centres((2, 2), (4, 8))
    assert places.tolist() == [[1, 2], [1, 6], [3, 2], [3, 6]]
    points = torch.tensor([[0.0, 0.0, 1], [7.9, 3.9, 1], [4.0, 1.0, 1], [9.0, -1.0, 1]])
    assert cells_of(points, (2, 2), (4, 8)).tolist() == [0, 3, 1, 1]


def test_pck_counts_parts_that_are_connected_with_the_same_part():
    here = centres(GRID, SIZE)[[3, 16]].flip(1)  # x, y of two cells of the query
    there = centres(GRID, SIZE)[[7, 0]].flip(1)
    parts = [[[*xy.tolist(), 1] for xy in side] for side in (here, there)]
    joint = torch.zeros(CELLS, CELLS)
    joint[3, 7], joint[5, 7], joint[16, 0] = 2.0, 1.0, 1.0
    assert PCK()(seen_with(joint, *parts)).values.item() == 1
    wrong = joint.clone()
    wrong[19, 0] = 2.0  # the second part's best match is elsewhere
    assert PCK()(seen_with(wrong, *parts)).values.item() == 0.5
    none = joint.clone()
    none[:, 0] = 0
    assert PCK()(seen_with(none, *parts)).values.item() == 0.5
    assert PCK(0.1, "precision")(seen_with(none, *parts)).values.item() == 1  # of the one part that has a match
    assert PCK(0.1, "precision")(seen_with(wrong, *parts)).values.item() == 0.5
    nowhere = PCK(0.1, "precision")(seen_with(0 * joint, *parts))
    assert nowhere.values.isnan().all()
    assert nowhere.reasons["no_matches"].all()
    assert PCK()(seen_with(0 * joint, *parts)).values.item() == 0
    hidden = [parts[0], [parts[1][0], [*parts[1][1][:2], 0]]]
    assert PCK()(seen_with(wrong, *hidden)).values.item() == 1
    away = [[[x + 3.0, y, v] for x, y, v in parts[0]], parts[1]]  # 3 px: within 0.1 of 40, not within 0.05
    assert (PCK(0.1)(seen_with(joint, *away)).values.item(), PCK(0.05)(seen_with(joint, *away)).values.item()) == (1, 0)


def test_the_chance_of_pck_is_the_share_of_positions_that_are_near_enough():
    here = centres(GRID, SIZE)[[7]].flip(1)
    parts = [[[*here[0].tolist(), 1]]] * 2
    seen = seen_with(torch.ones(CELLS, CELLS), *parts, box=(37, 51))
    assert PCK(0.1, "chance", None)(seen).values.item() == pytest.approx(1 / 20)
    assert PCK(1.0, "chance", None)(seen).values.item() == 1


def test_pairs_without_shared_parts_or_box_have_no_pck():
    part = [[10.0, 10.0, 1]]
    none = PCK()(seen_with(torch.ones(CELLS, CELLS), part, [[10.0, 10.0, 0]]))
    assert none.values.isnan().all()
    assert none.reasons["no_shared_parts"].all()
    empty = PCK()(seen_with(torch.ones(CELLS, CELLS), part, part, box=(0, 0)))
    assert empty.reasons["empty_mask"].all()
    alone = replace(seen_with(torch.ones(CELLS, CELLS), part, part), point_pairs=None)
    assert PCK()(alone).reasons["not_drawn"].all()
    assert MatchResidual()(alone).reasons["not_drawn"].all()


def test_parts_known_by_their_pixels_are_connected_with_themselves():
    """Three strips of both images; the 4 x 5 cells of a strip are columns 0 and 1, 1 to 3, and 3 and 4."""
    part = [[10.0, 10.0, 1]]
    joint = torch.zeros(CELLS, CELLS)
    for left, right in ((6, 10), (8, 12), (9, 14)):  # of the query and the centre of the strip in the reference
        joint[left, right] = 1.0
    assert PartMatches()(seen_with(joint, part, part)).values.item() == 1
    wrong = joint.clone()
    wrong[9, 10] = 2.0
    assert PartMatches()(seen_with(wrong, part, part)).values.item() == pytest.approx(2 / 3)
    wrong[:, 12] = 0
    assert PartMatches()(seen_with(wrong, part, part)).values.item() == pytest.approx(1 / 3)
    assert PartMatches("precision")(seen_with(wrong, part, part)).values.item() == 0.5
    chance = PartMatches("chance", None)(seen_with(joint, part, part)).values.item()
    assert chance == pytest.approx((2 + 3 + 2) / 5 / 3)
    alone = replace(seen_with(joint, part, part), point_pairs=None)
    assert PartMatches()(alone).reasons["not_drawn"].all()


def test_images_without_a_part_in_both_have_no_matches_by_part():
    part = [[10.0, 10.0, 1]]
    seen = seen_with(torch.ones(CELLS, CELLS), part, part)
    hidden = replace(seen.scene.pairs, redraws=Hidden(seen.scene.pairs.redraws))
    found = PartMatches()(replace(seen, scene=Scene(seen.scene.model, seen.scene.encoded, hidden)))
    assert found.reasons["no_shared_parts"].all()
    assert found.values.isnan().all()


def test_matches_that_move_together_have_no_residual():
    joint = torch.zeros(CELLS, CELLS)
    for row in range(3):
        for col in range(4):
            joint[row * 5 + col, (row + 1) * 5 + col + 1] = 1 + row  # one cell down and to the right
    part = [[10.0, 10.0, 1]]
    assert MatchResidual()(seen_with(joint, part, part)).values.item() == pytest.approx(0, abs=1e-6)
    joint[0] = 0
    joint[0, 19] = 9.0
    assert MatchResidual()(seen_with(joint, part, part)).values.item() > 0.01
    few = MatchResidual()(seen_with(torch.eye(CELLS) * (torch.arange(CELLS) < 4), part, part))
    assert few.reasons["few_matches"].all()
    one_spot = torch.zeros(CELLS, CELLS)
    one_spot[:, 7] = 1.0
    assert MatchResidual()(seen_with(one_spot, part, part)).reasons["few_matches"].all()
    with pytest.raises(UserError, match="least"):
        MatchResidual(least=3)


def test_the_residual_of_points_off_a_line_of_movement():
    places = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).double()
    others = places.clone()
    others[0, 0] += 1  # a quarter of it cannot be fitted at each corner
    torch.testing.assert_close(affine_residual(places, others), torch.tensor(0.25).double())


def test_methods_with_pairs_of_positions_give_them_and_others_and_margins_do_not():
    model, batch = tiny(*SETUPS[0]), pairs()
    methods = {"zhu": Zhu(), "pair_x": PairX(space="cut"), "sfam": SFAM()}
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    made = {method.name: method.explained for method in make_methods(scene, methods, [""] * 3)}
    assert made["sfam"].point_pairs is None
    for name in ("zhu", "pair_x"):
        joint = made[name].point_pairs()
        assert joint is made[name].point_pairs()  # computed once
        assert PCK(0.5)(made[name]).values.min() >= 0
        torch.testing.assert_close(joint.sum(dim=(3, 4)), made[name].raw, rtol=1e-4, atol=1e-6)
    margin = encode_pairs(model, Margin(), batch.query, batch.reference, batch.negative)
    (alone,) = make_methods(Scene(model, margin, batch), {"zhu": Zhu()}, [""] * 3)
    assert alone.explained.point_pairs is None
