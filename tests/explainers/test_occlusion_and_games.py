"""SBSM and KernelSHAP: additive scores, Shapley and Banzhaf values by brute force."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.records import Side
from sfam_bench.core.similarity import Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, score
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.sbsm import SBSM
from tests.explainers.masked import CLOSE, added, setting, summed
from tests.parts import SIMILARITIES

# SBSM


@pytest.mark.parametrize("relu", [True, False])
def test_on_an_additive_score_a_windows_fall_is_the_sum_of_what_it_covers(relu):
    model, encoded, pairs = setting(Dot(), additive=True)
    maps = SBSM(window=0.4, stride=0.2, relu=relu)(model, encoded, pairs)
    pixels = added(model, encoded)
    assert pixels.min() < 0 < pixels.max()
    total, often = torch.zeros_like(pixels), torch.zeros(11, 8)
    for top in range(-1, 10, 2):  # windows of 4 x 3 every 2 x 2: an overhang of 3 rows and 1 column
        for left in range(0, 8, 2):
            window = (..., slice(max(0, top), top + 4), slice(left, left + 3))
            fall = pixels[window].sum(dim=(1, 2), keepdim=True)
            total[window] += fall.relu() if relu else fall
            often[window] += 1
    torch.testing.assert_close(maps, total / often, **CLOSE)


def test_windows_are_counted_for_each_size():
    assert SBSM().forwards(side(224, 224)) == 1 + 12 * 12
    assert SBSM().forwards(side(37, 51)) == 1 + 13 * 11
    assert SBSM(window=1.0, stride=1.0).forwards(side(37, 51)) == 2


def side(rows, cols):
    images = torch.zeros(1, 3, rows, cols)
    return Side(images, images, torch.zeros(1, 2))


# KernelSHAP


@settings(max_examples=20, deadline=None)
@given(
    grid=st.integers(1, 5),
    rows=st.integers(5, 12),
    cols=st.integers(5, 12),
    weighting=st.sampled_from(["shapley", "banzhaf"]),
    seed=st.integers(0, 100),
)
def test_on_an_additive_score_each_patch_has_what_it_adds(grid, rows, cols, weighting, seed):
    model, encoded, pairs = setting(Dot(), rows=rows, cols=cols, additive=True)
    found = KernelSHAP(grid=grid, samples=160, weighting=weighting, seed=seed, baseline="zeros")(model, encoded, pairs)
    torch.testing.assert_close(found, summed(added(model, encoded), grid), rtol=1e-6, atol=1e-9)


def game(model, encoded, pairs, pair, kept):
    """The score of one query with some patches of a 2 x 2 grid kept and the others black."""
    image = torch.zeros_like(pairs.query[pair])
    for row, col in kept:
        rows, cols = (slice(-(-k * n // 2), -(-(k + 1) * n // 2)) for k, n in zip((row, col), (11, 8), strict=True))
        image[:, rows, cols] = pairs.query[pair][:, rows, cols]
    with torch.no_grad():
        return float(score(model.similarity, model(image[None]), encoded.terms, torch.tensor([pair])))


PATCHES = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_with_all_coalitions_it_is_the_shapley_value(similarity):
    of = setting(similarity, Margin())
    found = KernelSHAP(grid=2, samples=16, baseline="zeros")(*of)
    for pair in range(2):
        expected = torch.zeros(2, 2, dtype=torch.float64)
        for order in permutations(PATCHES):
            values = [game(*of, pair, order[:size]) for size in range(5)]
            for patch, before, after in zip(order, values, values[1:], strict=False):
                expected[patch] += (after - before) / 24
        torch.testing.assert_close(found[pair], expected, **CLOSE)


def test_with_all_coalitions_it_is_the_banzhaf_value():
    of = setting()
    found = KernelSHAP(grid=2, samples=16, weighting="banzhaf", baseline="zeros")(*of)
    for patch in PATCHES:
        others = [other for other in PATCHES if other != patch]
        drops = []
        for bits in range(8):
            kept = [other for place, other in enumerate(others) if bits >> place & 1]
            drops.append(game(*of, 1, [*kept, patch]) - game(*of, 1, kept))
        assert float(found[1][patch]) == pytest.approx(sum(drops) / 8, rel=1e-8)


@pytest.mark.parametrize("samples", [34, 35, 100])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_shapley_values_sum_to_the_change_of_the_score_however_few_the_samples(similarity, samples):
    model, encoded, pairs = setting(similarity)
    maps = KernelSHAP(grid=4, samples=samples)(model, encoded, pairs)
    mean = pairs.query.mean(dim=(2, 3), keepdim=True).expand_as(pairs.query)
    full, empty = (score(similarity, model(images).detach(), encoded.terms) for images in (pairs.query, mean))
    torch.testing.assert_close(maps.sum(dim=(1, 2)), full - empty, **CLOSE)


def test_more_samples_come_nearer_to_the_shapley_value():
    of = setting(NegativeEuclidean())
    exact, few, many = (KernelSHAP(grid=3, samples=samples)(*of) for samples in (512, 20, 300))
    assert (many - exact).abs().max() < 0.5 * (few - exact).abs().max()


def test_an_image_smaller_than_the_grid_has_a_patch_for_each_pixel():
    model, encoded, pairs = setting(Dot(), rows=3, cols=9, additive=True)
    method = KernelSHAP(grid=4, samples=64, baseline="zeros")
    assert method(model, encoded, pairs).shape == (2, 3, 4)
