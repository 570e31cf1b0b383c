"""Pointing and energy by hand, on boxes that are not square."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import ranks
from sfam_bench.metrics.difference import NegativeEnergy
from sfam_bench.metrics.localisation import (
    AveragePrecision,
    EnergyPointingGame,
    IoU,
    PointingGame,
    average_precision,
    near_peak,
)
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
    assert PointingGame(tolerance=float(tolerance))(seen).values.tolist() == [hit]


def test_the_first_of_equal_peaks_counts():
    maps = point(3, 4) + point(10, 10)
    assert near_peak(maps, 0.0).nonzero().tolist() == [[0, 3, 4]]


def test_negative_energy_is_the_energy_of_what_is_negative(explained):
    maps = -3 * point(9, 9) - 1 * point(0, 0) + 100 * point(10, 9)
    seen = explained(IMAGE, maps, masks={"unshared": box(8, 16, 8, 13)})
    assert NegativeEnergy()(seen).values.item() == pytest.approx(0.75)
    assert NegativeEnergy(value="chance")(seen).values.item() == pytest.approx(40 / 600)
    positive = NegativeEnergy()(explained(IMAGE, maps.abs(), masks={"unshared": box(8, 16, 8, 13)}))
    assert positive.reasons["no_negative_part"].all()
    assert positive.values.isnan().all()


def test_energy_by_hand_ignores_what_is_negative(explained):
    maps = 3 * point(9, 9) + 1 * point(0, 0) - 100 * point(10, 9)
    masks = {"foreground": box(8, 16, 8, 13)}
    seen = explained(IMAGE, maps, masks=masks)
    assert EnergyPointingGame()(seen).values.tolist() == [0.75]
    assert EnergyPointingGame(value="chance")(seen).values.tolist() == pytest.approx([8 * 5 / 600])
    assert EnergyPointingGame(value="ratio")(seen).values.tolist() == pytest.approx([0.75 * 600 / 40])


def test_a_map_without_positive_part_has_no_energy(explained):
    seen = explained(IMAGE, -torch.ones(1, 20, 30), masks={"foreground": box(8, 16, 8, 13)})
    assert EnergyPointingGame()(seen).values.isnan().all()


@pytest.mark.parametrize(
    "metric", [PointingGame(), EnergyPointingGame(), EnergyPointingGame(value="ratio"), IoU(), AveragePrecision()]
)
def test_an_empty_mask_is_neither_hit_nor_miss(explained, metric):
    seen = explained(IMAGE, point(3, 3), masks={"foreground": box(0, 0, 0, 0)})
    assert metric(seen).values.isnan().all()


def test_a_random_map_has_the_energy_of_the_area(explained):
    images = IMAGE.expand(400, -1, -1, -1)
    maps = torch.rand(400, 20, 30, generator=torch.Generator().manual_seed(1))
    seen = explained(images, maps, masks={"foreground": box(8, 16, 8, 13).expand(400, -1, -1)})
    share = EnergyPointingGame()(seen).values
    error = share.std() / 20
    assert abs(float(share.mean()) - 40 / 600) < 4 * float(error)


def test_the_mask_itself_scores_best_and_its_inverse_worst(explained):
    mask = box(8, 16, 8, 13)
    for maps, expected in ((mask.float(), 1.0), (1 - mask.float(), 0.0)):
        seen = explained(IMAGE, maps, masks={"foreground": mask})
        assert EnergyPointingGame()(seen).values.item() == pytest.approx(expected)
        assert PointingGame(tolerance=0.0)(seen).values.item() == expected
        assert IoU()(seen).values.item() == expected
    assert AveragePrecision()(explained(IMAGE, mask.float(), masks={"foreground": mask})).values.item() == 1


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, 4 / 42),  # the wide one, half of it inside, and the high one
        (0.25, 4 / 42),
        (0.5, 2 / 40),  # strictly above: the wide one is gone
        (0.75, 2 / 40),
    ],
)
def test_iou_by_hand(explained, threshold, expected):
    maps = 1.0 * box(8, 10, 8, 9) + 0.5 * box(15, 17, 11, 13) - 3.0 * box(0, 4, 0, 30)
    seen = explained(IMAGE, maps.float(), masks={"foreground": box(8, 16, 8, 13)})
    assert IoU(threshold=threshold)(seen).values.tolist() == pytest.approx([expected])


def test_selectivity_by_hand(explained):
    masks = {"shared": box(0, 4, 0, 4), "unshared": box(10, 14, 20, 24)}
    maps = 3 * point(2, 2) + 1 * point(12, 22) + 4 * point(19, 0)
    seen = explained(IMAGE, maps, masks=masks)
    assert Selectivity("energy")(seen).values.tolist() == pytest.approx([3 / 8 - 1 / 8])
    assert Selectivity("peak")(seen).values.tolist() == [0.0]
    assert Selectivity("peak")(explained(IMAGE, point(2, 2), masks=masks)).values.tolist() == [1.0]
    assert Selectivity("peak")(explained(IMAGE, point(12, 22), masks=masks)).values.tolist() == [-1.0]


def test_selectivity_of_a_hidden_part_is_undefined(explained):
    masks = {"shared": box(0, 4, 0, 4), "unshared": box(0, 0, 0, 0)}
    for of in ("energy", "peak"):
        assert Selectivity(of)(explained(IMAGE, point(2, 2), masks=masks)).values.isnan().all()


def test_what_a_metric_needs():
    assert PointingGame().needs == ("foreground",)
    assert PointingGame("shared", only_with="unshared").needs == ("shared", "unshared")
    assert Selectivity().needs == ("shared", "unshared")


def test_iou_of_a_map_without_positive_part_is_undefined(explained):
    seen = explained(IMAGE, -torch.rand(1, 20, 30), masks={"foreground": box(8, 16, 8, 13)})
    assert IoU()(seen).values.isnan().all()
    assert IoU()(seen).reasons["no_positive_part"].all()


@pytest.mark.parametrize("threshold", [1.0, -0.5])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(UserError, match=r"IoU\.threshold is"):
        IoU(threshold=threshold)


def test_average_precision_by_hand(explained):
    maps = 4 * point(9, 9) + 3 * point(0, 0) + 2 * point(10, 9) - 1 * point(12, 12)
    region = box(9, 10, 9, 10) | box(10, 11, 9, 10) | box(12, 13, 12, 13)
    seen = explained(IMAGE, maps, masks={"foreground": region})
    # found first, third and, behind all the zeros, last of 600
    assert AveragePrecision()(seen).values.tolist() == pytest.approx([(1 / 1 + 2 / 3 + 3 / 600) / 3])
    assert AveragePrecision(value="chance")(seen).values.tolist() == pytest.approx([3 / 600])


def test_average_precision_of_the_inverse_is_the_worst_there_is(explained):
    mask = box(8, 16, 8, 13)
    last = torch.arange(600.0).reshape(1, 20, 30) * ~mask - torch.rand(1, 20, 30) * mask
    found = AveragePrecision()(explained(IMAGE, last, masks={"foreground": mask})).values.item()
    assert found == pytest.approx(sum(k / (560 + k) for k in range(1, 41)) / 40)
    assert found < 40 / 600


def test_a_constant_map_has_the_precision_of_chance(explained):
    seen = explained(IMAGE, torch.ones(1, 20, 30), masks={"foreground": box(8, 16, 8, 13)})
    assert AveragePrecision()(seen).values.tolist() == AveragePrecision(value="chance")(seen).values.tolist()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 50, 10**6]), share=st.floats(0.01, 0.99))
def test_average_precision_is_that_of_scikit_learn_whatever_ties(seed, levels, share):
    draw = torch.Generator().manual_seed(seed)
    maps = (torch.rand(3, 16, 24, generator=draw) * levels).floor() / levels - 0.4
    region = torch.rand(3, 16, 24, generator=draw) < share
    region[:, 0, 0] = True
    ours = average_precision(ranks(maps), maps, region)
    for one, mask, value in zip(maps, region, ours, strict=True):
        assert value.item() == pytest.approx(average_precision_score(mask.flatten(), one.flatten()), abs=1e-6)
    scaled = 0.125 * maps
    assert torch.equal(ours, average_precision(ranks(scaled), scaled, region))


@pytest.mark.parametrize("metric", [IoU(), IoU(threshold=0.2), AveragePrecision(), PointingGame(tolerance=0.0)])
def test_values_hang_on_no_other_pair(explained, metric):
    draw = torch.Generator().manual_seed(2)
    maps = torch.nn.functional.interpolate(torch.randn(32, 1, 5, 7, generator=draw), (40, 60), mode="bilinear")[:, 0]
    region = maps.roll(9, 2) > 0.3
    region[:, 5:9, 5:20] = True
    images = torch.rand(1, 3, 40, 60).expand(32, -1, -1, -1)
    together = metric(explained(images, maps, masks={"foreground": region})).values
    alone = [metric(explained(images[:1], maps[[k]], masks={"foreground": region[[k]]})).values for k in range(32)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.isfinite().all()
    assert len(together.unique()) > 1
