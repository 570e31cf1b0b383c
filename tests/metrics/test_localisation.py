"""Pointing and energy by hand, on boxes that are not square."""

import pytest
import torch

from sfam_bench.metrics.localisation import EnergyPointingGame, PointingGame, near_peak
from sfam_bench.metrics.selectivity import Selectivity

IMAGE = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))


def box(top, bottom, left, right):
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


def point(row, col):
    maps = torch.zeros(1, 20, 30)
    maps[0, row, col] = 1
    return maps


@pytest.mark.parametrize(
    ("peak", "tolerance", "hit"),
    [
        ((10, 8), 0, 1.0),  # inside
        ((10, 4), 0, 0.0),  # 4 px left of the box
        ((10, 4), 4, 0.0),  # the reach is strict
        ((10, 4), 4.01, 1.0),
        ((0, 1), 9, 0.0),  # corner: 8 down and 7 across, 10.6 px
        ((0, 1), 10.7, 1.0),
        ((8, 10), 0, 1.0),  # row 8, col 10 is inside; with swapped axes (10, 8) it would be too
        ((9, 13), 0, 0.0),  # outside by one column; with swapped axes inside the rows
    ],
)
def test_pointing_game_by_hand(explained, peak, tolerance, hit):
    seen = explained(IMAGE, point(*peak), masks={"foreground": box(8, 16, 8, 13)})
    assert PointingGame(tolerance=float(tolerance))(seen).tolist() == [hit]


def test_the_first_of_equal_peaks_counts():
    maps = point(3, 4) + point(10, 10)
    assert near_peak(maps, 0.0).nonzero().tolist() == [[0, 3, 4]]


def test_energy_by_hand_ignores_what_is_negative(explained):
    maps = 3 * point(9, 9) + 1 * point(0, 0) - 100 * point(10, 9)
    masks = {"foreground": box(8, 16, 8, 13)}
    seen = explained(IMAGE, maps, masks=masks)
    assert EnergyPointingGame()(seen).tolist() == [0.75]
    assert EnergyPointingGame(value="chance")(seen).tolist() == pytest.approx([8 * 5 / 600])
    assert EnergyPointingGame(value="ratio")(seen).tolist() == pytest.approx([0.75 * 600 / 40])


def test_a_map_without_positive_part_has_no_energy(explained):
    seen = explained(IMAGE, -torch.ones(1, 20, 30), masks={"foreground": box(8, 16, 8, 13)})
    assert EnergyPointingGame()(seen).isnan().all()


@pytest.mark.parametrize("metric", [PointingGame(), EnergyPointingGame(), EnergyPointingGame(value="ratio")])
def test_an_empty_mask_is_neither_hit_nor_miss(explained, metric):
    seen = explained(IMAGE, point(3, 3), masks={"foreground": box(0, 0, 0, 0)})
    assert metric(seen).isnan().all()


def test_a_random_map_has_the_energy_of_the_area(explained):
    images = IMAGE.expand(400, -1, -1, -1)
    maps = torch.rand(400, 20, 30, generator=torch.Generator().manual_seed(1))
    seen = explained(images, maps, masks={"foreground": box(8, 16, 8, 13).expand(400, -1, -1)})
    share = EnergyPointingGame()(seen)
    error = share.std() / 20
    assert abs(float(share.mean()) - 40 / 600) < 4 * float(error)


def test_the_mask_itself_scores_best_and_its_inverse_worst(explained):
    mask = box(8, 16, 8, 13)
    for maps, expected in ((mask.float(), 1.0), (1 - mask.float(), 0.0)):
        seen = explained(IMAGE, maps, masks={"foreground": mask})
        assert EnergyPointingGame()(seen).item() == pytest.approx(expected)
        assert PointingGame(tolerance=0.0)(seen).item() == expected


def test_selectivity_by_hand(explained):
    masks = {"shared": box(0, 4, 0, 4), "unshared": box(10, 14, 20, 24)}
    maps = 3 * point(2, 2) + 1 * point(12, 22) + 4 * point(19, 0)
    seen = explained(IMAGE, maps, masks=masks)
    assert Selectivity("energy")(seen).tolist() == pytest.approx([3 / 8 - 1 / 8])
    assert Selectivity("peak")(seen).tolist() == [0.0]
    assert Selectivity("peak")(explained(IMAGE, point(2, 2), masks=masks)).tolist() == [1.0]
    assert Selectivity("peak")(explained(IMAGE, point(12, 22), masks=masks)).tolist() == [-1.0]


def test_selectivity_of_a_hidden_part_is_undefined(explained):
    masks = {"shared": box(0, 4, 0, 4), "unshared": box(0, 0, 0, 0)}
    for of in ("energy", "peak"):
        assert Selectivity(of)(explained(IMAGE, point(2, 2), masks=masks)).isnan().all()


def test_what_a_metric_needs():
    assert PointingGame().needs == ("foreground",)
    assert PointingGame("shared", only_with="unshared").needs == ("shared", "unshared")
    assert Selectivity().needs == ("shared", "unshared")
