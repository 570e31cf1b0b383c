"""Parts by hand on images that are not square; against the pointing and energy games on the parts' own pixels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.localisation import EnergyPointingGame, PointingGame
from sfam_bench.metrics.parts import KINDS, PARTS, PartEnergy, PartPointingGame, SamePart, territories
from sfam_bench.metrics.shared.base import NOT_DRAWN, Explained
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SIZE, only, pairs, tiny

ROWS, COLS = 20, 30
IMAGE = torch.rand(1, 3, ROWS, COLS, generator=torch.Generator().manual_seed(0))
DEVICE = torch.device("cpu")


def keypoints(*parts: tuple[float, float, float]) -> torch.Tensor:
    """One image's x, y, visible; the others of CUB's 15 are hidden."""
    return torch.tensor([[*parts, *[(0.0, 0.0, 0.0)] * (15 - len(parts))]])


def point(row: int, col: int, value: float = 1.0) -> torch.Tensor:
    maps = torch.zeros(1, ROWS, COLS)
    maps[0, row, col] = value
    return maps


def marked(explained, maps, first, second=None):
    """Maps of images with these parts, and the reference's."""
    seen = explained(IMAGE.expand(len(maps), -1, -1, -1), maps)
    marks = replace(seen.scene.pairs, keypoints=first, reference_keypoints=first if second is None else second)
    return Explained(Scene(seen.scene.model, seen.scene.encoded, marks), maps, seen.explainer, maps)


def on_parts(explained, maps, marks):
    """The same maps with the visible parts' pixels as the foreground."""
    region = torch.zeros(maps.shape, dtype=torch.bool)
    for image, part in (marks[..., 2] > 0).nonzero().tolist():
        region[image, int(marks[image, part, 1]), int(marks[image, part, 0])] = True
    return explained(IMAGE.expand(len(maps), -1, -1, -1), maps, masks={"foreground": region})


def random_parts(count: int, seed: int, rows: int = ROWS, cols: int = COLS) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    where = torch.rand(count, 15, 2, generator=draw) * torch.tensor([cols, rows])
    return torch.cat([where, (torch.rand(count, 15, 1, generator=draw) < 0.5).float()], dim=2)


TWO = keypoints((25.5, 3.9, 1), (2.2, 10.0, 1), (28.0, 18.0, 0))  # back, beak; a hidden belly


@pytest.mark.parametrize(
    ("peak", "tolerance", "hit"),
    [
        ((3, 25), 0.0, 1.0),  # the pixel that x 25.5, y 3.9 lies in
        ((3, 26), 0.0, 0.0),
        ((3, 26), 1.0, 0.0),  # the reach is strict
        ((3, 26), 1.01, 1.0),
        ((14, 5), 5.0, 0.0),  # 4 down and 3 across of the beak: 5 px
        ((14, 5), 5.01, 1.0),
        ((18, 28), 5.0, 0.0),  # the belly is hidden
        ((10, 2), 0.0, 1.0),  # with x and y swapped, row 2, column 10
        ((2, 10), 3.0, 0.0),
    ],
)
def test_pointing_at_any_visible_part_by_hand(explained, peak, tolerance, hit):
    seen = marked(explained, point(*peak), TWO)
    assert PartPointingGame(tolerance)(seen).values.tolist() == [hit]
    assert (
        PartPointingGame(tolerance)(seen).values
        == PointingGame(tolerance=tolerance)(on_parts(explained, seen.maps, TWO)).values
    )


def test_chance_is_the_area_within_reach_by_hand(explained):
    seen = marked(explained, point(0, 0), TWO)
    assert PartPointingGame(1.5, "chance")(seen).values.tolist() == pytest.approx([(9 + 9) / 600])
    assert PartPointingGame(0.0, "chance")(seen).values.tolist() == pytest.approx([2 / 600])
    assert PartEnergy(tolerance=1.5, value="chance")(seen).values.tolist() == pytest.approx([18 / 600])


def test_energy_by_hand(explained):
    maps = point(3, 24, 0.5) + point(10, 2, 0.2) + point(19, 29, 0.3) + point(0, 0, -1.0)
    seen = marked(explained, maps, TWO)
    assert PartEnergy(tolerance=1.5)(seen).values.tolist() == pytest.approx([0.7])
    assert PartEnergy(tolerance=1.5, value="ratio")(seen).values.tolist() == pytest.approx([0.7 * 600 / 18])
    assert PartEnergy("back", 1.5)(seen).values.tolist() == pytest.approx([0.5])
    assert PartEnergy("beak", 1.5, "ratio")(seen).values.tolist() == pytest.approx([0.2 * 600 / 9])
    assert PartEnergy("belly", 1.5)(seen).values.isnan().all()
    wide = [PartEnergy(part, 40.0)(seen).values.item() for part in ("back", "beak")]
    assert wide == pytest.approx([0.8, 0.2])  # the corner is the back's


def test_left_and_right_are_one_kind(explained):
    marks = torch.zeros(1, 15, 3)
    marks[0, PARTS.index("left_eye")] = torch.tensor([5.0, 5.0, 1.0])
    marks[0, PARTS.index("right_eye")] = torch.tensor([20.0, 5.0, 1.0])
    seen = marked(explained, point(5, 5, 0.6) + point(5, 20, 0.3) + point(19, 0, 0.1), marks)
    assert PartEnergy("eye", 3.0)(seen).values.tolist() == pytest.approx([0.9])
    assert PartEnergy("left_eye", 3.0)(seen).values.tolist() == pytest.approx([0.6])
    assert len(KINDS) == 12
    with pytest.raises(UserError, match="choose one of back, beak"):
        PartEnergy("left")
    few = marked(explained, point(5, 5), marks[:, :7])
    assert PartEnergy()(few).values.isfinite().all()
    with pytest.raises(UserError, match="these images have 7"):
        PartEnergy("eye")(few)


def test_the_names_of_the_parts_are_those_of_the_data(shared_data: Path):
    lines = (shared_data / "CUB_200_2011" / "parts" / "parts.txt").read_text().splitlines()
    assert tuple(line.split(" ", 1)[1].replace(" ", "_") for line in lines) == PARTS


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_territories_are_those_of_a_search_over_all_parts(seed):
    marks = random_parts(2, seed)
    marks[0, 3, 2] = 1
    found = territories(marks, ROWS, COLS, DEVICE)
    for image in range(2):
        visible = [k for k in range(15) if marks[image, k, 2] > 0]
        for row, col in ((0, 0), (7, 21), (19, 3), (int(marks[0, 3, 1]), int(marks[0, 3, 0]))):
            away = [(row - int(marks[image, k, 1])) ** 2 + (col - int(marks[image, k, 0])) ** 2 for k in visible]
            if visible:
                assert found.part[image, row, col] == visible[away.index(min(away))]
                assert found.distance[image, row, col] == min(away)


def test_any_part_is_the_sum_of_all_and_the_games_on_their_pixels(explained):
    marks, maps = random_parts(8, 5), torch.rand(8, ROWS, COLS, generator=torch.Generator().manual_seed(5)) - 0.3
    marks[0, :, 2] = 0
    seen, region = marked(explained, maps, marks), on_parts(explained, maps, marks)
    energy = PartEnergy(tolerance=4.0)(seen).values
    assert energy.isnan().tolist() == [True] + [False] * 7
    by_kind = torch.stack([PartEnergy(kind, 4.0)(seen).values.nan_to_num() for kind in KINDS]).sum(dim=0)
    torch.testing.assert_close(by_kind[1:], energy[1:])
    torch.testing.assert_close(
        PartEnergy(tolerance=0.0)(seen).values, EnergyPointingGame()(region).values, equal_nan=True
    )
    for tolerance in (0.0, 2.0, 5.0):
        hits = PartPointingGame(tolerance)(seen).values
        torch.testing.assert_close(hits, PointingGame(tolerance=tolerance)(region).values, equal_nan=True)


def test_the_parts_themselves_score_best_and_all_else_worst(explained):
    seen = marked(explained, torch.zeros(1, ROWS, COLS), TWO)
    near = territories(TWO, ROWS, COLS, DEVICE).within(3.0)
    for maps, expected in ((near.float(), 1.0), (1 - near.float(), 0.0)):
        seen = marked(explained, maps, TWO)
        assert PartPointingGame(3.0)(seen).values.tolist() == [expected]
        assert PartEnergy(tolerance=3.0)(seen).values.tolist() == pytest.approx([expected])


def test_without_a_visible_part_there_is_a_reason(explained):
    marks = torch.cat([TWO, keypoints((5, 5, 0))])
    seen = marked(explained, point(3, 25).expand(2, -1, -1), marks)
    for metric in (PartPointingGame(), PartPointingGame(value="chance"), PartEnergy(), PartEnergy(value="ratio")):
        assert metric(seen).values.isnan().tolist() == [False, True]
        assert metric(seen).reasons["no_parts"].tolist() == [False, True]
    negative = marked(explained, -torch.rand(1, ROWS, COLS), TWO)
    assert PartEnergy()(negative).reasons["no_positive_part"].all()


# Do the peaks of both images name the same part?


class Pointed:
    """A method whose maps peak where it is told, by image."""

    def __init__(self, peaks: dict[str, tuple[int, int]]):
        self.peaks = peaks

    def __call__(self, model, encoded, batch):
        return torch.cat([point(*self.peaks[name]) for name in batch.query_ids])


def same_part(explained, first, second, peaks, metric=SamePart()):  # noqa: B008 (frozen)
    seen = marked(explained, point(*peaks[0]), first, second)
    return metric(Explained(seen.scene, seen.maps, "told", seen.maps, Pointed({"r0": peaks[1], "0": peaks[0]}))).values


LEFT = keypoints((5, 5, 1), (20, 5, 1))  # back left, beak right
RIGHT = keypoints((20, 5, 1), (5, 5, 1))  # mirrored


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [(((6, 6), (4, 21)), 1.0), (((6, 6), (6, 6)), 0.0), (((19, 29), (0, 0)), 1.0), (((6, 6), (19, 3)), 0.0)],
)
def test_the_same_part_of_mirrored_images_by_hand(explained, peaks, expected):
    assert same_part(explained, LEFT, RIGHT, peaks).tolist() == [expected]


def test_the_left_eye_of_one_is_the_right_eye_of_the_other(explained):
    eyes = [torch.zeros(1, 15, 3) for _ in range(2)]
    for marks, eye in zip(eyes, ("left_eye", "right_eye"), strict=True):
        marks[0, PARTS.index(eye)] = torch.tensor([5.0, 5.0, 1.0])
        marks[0, PARTS.index("tail")] = torch.tensor([25.0, 5.0, 1.0])
    assert same_part(explained, *eyes, ((5, 5), (6, 6))).tolist() == [1.0]
    assert same_part(explained, *eyes, ((5, 5), (6, 26))).tolist() == [0.0]


def test_chance_is_how_often_two_points_agree_by_hand(explained):
    chance = SamePart("chance")
    # between columns 5 and 20: 0..12 are nearer to the left part, 13..29 to the right
    left, right = 13 / 30, 17 / 30
    assert same_part(explained, LEFT, LEFT, ((0, 0), (0, 0)), chance).tolist() == pytest.approx([left**2 + right**2])
    assert same_part(explained, LEFT, RIGHT, ((0, 0), (0, 0)), chance).tolist() == pytest.approx([2 * left * right])


def test_pairs_without_a_map_of_the_reference_are_left_alone(explained):
    seen = marked(explained, point(3, 25), TWO)
    for metric in (SamePart(), SamePart("chance")):
        assert metric(seen).reasons[NOT_DRAWN].all()
        assert metric(seen).values.isnan().all()
    model, batch = tiny("cosine", "gap", "none"), pairs()
    encoded = encode_pairs(model, Margin(), batch.query, batch.reference, batch.query.flip(0))
    margin = Explained(Scene(model, encoded, batch), torch.rand(3, *SIZE), "sfam", None, SFAM())
    assert SamePart()(margin).reasons[NOT_DRAWN].all()
    batch = replace(batch, negative_ids=("x", "y", "z"), negative=batch.query.flip(0))
    (shard,) = evaluate(model, Margin(), [batch], {"sfam": SFAM()}, {"same": SamePart(), "p": PartEnergy()}, "made")
    assert {record.metric for record in shard.records if record.explainer == "sfam"} == {"p"}


def test_a_flat_or_hidden_reference_has_a_reason(explained):
    hidden = marked(explained, point(3, 25), TWO, keypoints((5, 5, 0)))
    told = Explained(hidden.scene, hidden.maps, "told", hidden.maps, Pointed({"r0": (3, 25)}))
    assert SamePart()(told).reasons["no_parts"].all()
    assert SamePart()(told).values.isnan().all()
    seen = marked(explained, point(3, 25), TWO)
    flat = Explained(seen.scene, seen.maps, "flat", seen.maps, lambda *_: torch.ones(1, 4, 5))
    assert SamePart()(flat).reasons["reference_map"].all()
    assert SamePart()(flat).values.isnan().all()


def test_an_image_and_itself_name_the_same_part():
    model, batch = tiny("cosine", "gap", "none"), pairs()
    itself = replace(batch, reference=batch.query, reference_keypoints=batch.keypoints)
    encoded = encode_pairs(model, Similarity(), itself.query, itself.reference)
    raw = SFAM()(model, encoded, itself).detach()
    seen = Explained(Scene(model, encoded, itself), upsample(normalise(raw), SIZE), "sfam", raw, SFAM())
    assert SamePart()(seen).values.tolist() == [1.0] * 3
    assert (SamePart("chance")(seen).values < 0.5).all()


@pytest.mark.parametrize(
    "metric",
    [PartPointingGame(5.0), PartEnergy(tolerance=5.0), PartEnergy("wing", 5.0), SamePart(), SamePart("chance")],
)
def test_values_hang_on_no_other_pair(metric):
    model, batch = tiny("cosine", "gap", "none"), pairs(6)
    maps = torch.rand(6, *SIZE, generator=torch.Generator().manual_seed(2)) - 0.3
    values = []
    for rows in ([0, 1, 2, 3, 4, 5], *([k] for k in range(6))):
        some = only(batch, rows)
        scene = Scene(model, encode_pairs(model, Similarity(), some.query, some.reference), some)
        values.append(metric(Explained(scene, maps[rows], "sfam", maps[rows], SFAM())).values)
    torch.testing.assert_close(values[0], torch.cat(values[1:]))
    assert values[0].isfinite().all()
