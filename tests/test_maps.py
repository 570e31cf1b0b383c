"""Size and scale of maps, and the flags of maps that mean nothing."""

import pytest
import torch

from sfam_bench.maps import flagged, normalise, upsample


def test_normalising_keeps_sign_and_zero():
    raw = torch.tensor([[[2.0, 0.0], [-4.0, 1.0]]])
    assert normalise(raw).tolist() == [[[0.5, 0.0], [-1.0, 0.25]]]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_map_becomes_zeros_and_is_counted(value):
    raw = torch.full((1, 3, 4), value)
    assert flagged(raw)[1].tolist() == [True]
    assert normalise(raw).abs().max() == 0


def test_rounding_noise_on_a_constant_is_not_stretched():
    raw = 3 + 1e-7 * torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    assert flagged(raw)[1].tolist() == [True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_with_a_hole_becomes_zeros_and_is_counted_apart(value):
    raw = torch.rand(2, 3, 3)
    raw[0, 1, 1] = value
    nonfinite, constant = flagged(raw)
    assert nonfinite.tolist() == [True, False]
    assert constant.tolist() == [False, False]
    assert normalise(raw)[0].abs().max() == 0
    assert normalise(raw)[1].abs().max() == 1


def test_cells_are_centred_on_their_patches():
    raw = torch.tensor([[[0.0, 1.0]]])
    wide = upsample(raw, (1, 4))
    assert wide[0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_sizes_are_rows_then_cols():
    assert upsample(torch.rand(2, 3, 5), (30, 70)).shape == (2, 30, 70)
