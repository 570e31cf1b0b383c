"""Spearman and SSIM of maps against scipy and scikit-image, and when a method is asked for further maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from sfam_bench.core.errors import UserError
from sfam_bench.core.targets import Similarity
from sfam_bench.metrics.sensitivity import ReferenceSensitivity
from sfam_bench.metrics.shared.base import NOT_DRAWN, Explained
from sfam_bench.metrics.shared.likeness import average_ranks, spearman, ssim
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny

COARSE = arrays.arrays(np.float32, (2, 4, 5), elements=st.integers(-3, 3).map(float))  # so that pixels tie


def noise(seed: int, count: int = 3) -> torch.Tensor:
    return 2 * torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed)) - 1


@settings(deadline=None)
@given(COARSE, COARSE)
def test_spearman_is_scipys_ties_too(one: np.ndarray, other: np.ndarray) -> None:
    maps, others = torch.tensor(one), torch.tensor(other)
    np.testing.assert_array_equal(average_ranks(maps), stats.rankdata(-maps.flatten(1), axis=1))
    for found, a, b in zip(spearman(maps, others).tolist(), one, other, strict=True):
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-6)


def test_equal_maps_are_exactly_alike_and_reversed_ones_exactly_unlike() -> None:
    maps = noise(0)
    assert spearman(maps, maps.clone()).tolist() == [1.0] * 3
    assert spearman(maps, maps.exp() * 7).tolist() == [1.0] * 3  # any rising transformation
    assert spearman(maps, -maps).tolist() == [-1.0] * 3
    assert ssim(maps, maps.clone()).tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_ssim_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    one, other = noise(1).abs(), 0.6 * noise(1).abs() + 0.4 * noise(2).abs()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    theirs = [metrics.structural_similarity(a, b, **options) for a, b in zip(one.numpy(), other.numpy(), strict=True)]
    np.testing.assert_allclose(ssim(one, other), theirs, rtol=1e-4)
    assert 0.1 < min(theirs) < max(theirs) < 0.95


def test_ssim_of_maps_smaller_than_its_window_is_refused() -> None:
    with pytest.raises(UserError, match=r"11 x 11 pixels, not \(10, 51\): use spearman"):
        ssim(torch.rand(1, 10, 51), torch.rand(1, 10, 51))


def test_magnitudes_do_not_see_signs() -> None:
    model, batch = tiny(*SETUPS[0]), pairs()
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    maps = noise(3)
    seen = Explained(scene, maps, remake=lambda *_: -maps)
    for measure in ("spearman", "ssim"):
        found = ReferenceSensitivity(to="noise", measure=measure, of="magnitude")(seen).values
        assert found.tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert ReferenceSensitivity(to="noise")(seen).values.tolist() == [2.0] * 3
    assert (ReferenceSensitivity(to="noise", measure="ssim")(seen).values > 1).all()


def test_a_method_is_left_alone_where_it_cannot_or_should_not_be_asked_again() -> None:
    model, batch = tiny(*SETUPS[0]), pairs()
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    maps = noise(4)

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("asked")

    metric = ReferenceSensitivity(to="noise")
    for seen in (Explained(scene, maps), Explained(scene, maps, remake=never, expensive=True)):
        assert metric(seen).values.isnan().all()
        assert metric(seen).reasons[NOT_DRAWN].all()
    dear = ReferenceSensitivity(expensive=True, to="noise")
    assert dear(Explained(scene, maps, remake=lambda *_: maps, expensive=True)).values.tolist() == [0.0] * 3


def test_a_constant_further_map_is_a_reason_and_no_value() -> None:
    model, batch = tiny(*SETUPS[0]), pairs()
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    maps = noise(5)
    flat = maps.clone()
    flat[1], flat[2, 0, 0] = 0.3, torch.nan
    metric, seen = ReferenceSensitivity(to="noise"), Explained(scene, maps, remake=lambda *_: flat)
    assert metric(seen).values.isnan().tolist() == [False, True, True]
    assert metric(seen).reasons["constant_further_map"].tolist() == [False, True, True]
    none = Explained(scene, torch.zeros_like(maps), remake=lambda *_: maps)
    assert metric(none).reasons["constant_map"].all()
