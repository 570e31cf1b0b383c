"""Concentration by hand, and against what Quantus computes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfam_bench.metrics.complexity import EffectiveArea, Entropy, Gini, entropy, gini, parts

ROWS, COLS = 16, 24
N = ROWS * COLS
IMAGE = torch.rand(1, 3, ROWS, COLS, generator=torch.Generator().manual_seed(0))
KINDS = [Gini, Entropy, EffectiveArea]


def values(explained, maps: torch.Tensor, of: str = "magnitude") -> list[float]:
    seen = explained(IMAGE.expand(len(maps), -1, -1, -1), maps)
    return [kind(of)(seen).values.item() for kind in KINDS]


def test_a_flat_map_a_pixel_and_a_quarter_by_hand(explained):
    flat, pixel, quarter = (torch.zeros(1, ROWS, COLS) for _ in range(3))
    flat += 0.3
    pixel[0, 3, 20] = 1
    quarter[0, :8, :12] = -0.5
    assert values(explained, flat) == pytest.approx([0, math.log(N), 1], abs=1e-6)
    assert values(explained, pixel) == pytest.approx([1 - 1 / N, 0, 1 / N], abs=1e-6)
    assert values(explained, quarter) == pytest.approx([3 / 4, math.log(N / 4), 1 / 4], abs=1e-6)


def test_gini_of_two_levels_by_hand(explained):
    maps = torch.ones(1, ROWS, COLS)
    maps[0, : ROWS // 2] = 3  # half of the pixels have three quarters: the area under Lorenz's curve is 3/8
    assert Gini()(explained(IMAGE, maps)).values.item() == pytest.approx(
        1 - 2 * (0.5 * 0.25 * 0.5 + 0.5 * (0.25 + 1) * 0.5)
    )


def test_only_what_is_asked_for_counts(explained):
    maps = torch.zeros(1, ROWS, COLS)
    maps[0, 0, 0], maps[0, 1, 1] = 1, -1
    assert values(explained, maps) == pytest.approx([1 - 2 / N, math.log(2), 2 / N], abs=1e-6)
    assert values(explained, maps, "positive") == pytest.approx([1 - 1 / N, 0, 1 / N], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_nothing_has_no_concentration(explained, kind):
    seen = explained(IMAGE.expand(2, -1, -1, -1), torch.stack([torch.zeros(ROWS, COLS), -torch.rand(ROWS, COLS)]))
    assert kind()(seen).values.isnan().tolist() == [True, False]
    assert kind()(seen).reasons["constant_map"].tolist() == [True, False]
    assert kind("positive")(seen).values.isnan().tolist() == [True, True]
    assert kind("positive")(seen).reasons["no_positive_part"].tolist() == [True, True]
    assert kind().higher_is_better is None


def quantus_sparseness(a: np.ndarray) -> float:
    """What Quantus' Sparseness computes of magnitudes, its offset included."""
    a = np.sort(a.ravel().astype(float) + 1e-7)
    return float(np.sum((2 * np.arange(1, len(a) + 1) - len(a) - 1) * a) / (len(a) * a.sum()))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), power=st.floats(0.2, 6), scale=st.floats(1e-3, 1))
def test_values_are_those_of_quantus_hang_on_no_scale_and_know_the_sharper(seed, power, scale):
    maps = torch.randn(2, ROWS, COLS, generator=torch.Generator().manual_seed(seed))
    maps = maps.sign() * maps.abs() ** power
    maps /= maps.abs().amax(dim=(1, 2), keepdim=True)
    weights = parts(maps, "magnitude")
    first, second = gini(weights), entropy(weights)
    for one, ours, theirs in zip(maps.abs().numpy(), first.tolist(), second.tolist(), strict=True):
        assert ours == pytest.approx(quantus_sparseness(one), abs=1e-3)
        assert theirs == pytest.approx(stats.entropy(one.ravel().astype(float)), abs=1e-6)  # Quantus' Complexity
    torch.testing.assert_close(gini(scale * weights), first)
    torch.testing.assert_close(entropy(scale * weights), second)
    assert ((first >= 0) & (first < 1)).all()
    assert ((second >= 0) & (second <= math.log(N) + 1e-9)).all()
    assert (gini(weights**2) > first).all()
    assert (entropy(weights**2) < second).all()
