"""Size and scale of maps, the flags of maps that mean nothing, and the order of their pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.maps import argsort_descending, find_flaws, normalise, ranks, upsample


def test_normalising_keeps_sign_and_zero():
    raw = torch.tensor([[[2.0, 0.0], [-4.0, 1.0]]])
    assert normalise(raw).tolist() == [[[0.5, 0.0], [-1.0, 0.25]]]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_map_becomes_zeros_and_is_counted(value):
    raw = torch.full((1, 3, 4), value)
    assert find_flaws(raw)[1].tolist() == [True]
    assert normalise(raw).abs().max() == 0


def test_rounding_noise_on_a_constant_is_not_stretched():
    raw = 3 + 1e-7 * torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    assert find_flaws(raw)[1].tolist() == [True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_with_a_hole_becomes_zeros_and_is_counted_apart(value):
    raw = torch.rand(2, 3, 3)
    raw[0, 1, 1] = value
    nonfinite, constant = find_flaws(raw)
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


TINY = 1e-45  # the least float32 above zero; a denormal
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, *(sign * size for sign in (1, -1) for size in (TINY, 3 * TINY, 1e-38, torch.inf))]
values = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from(SPECIAL[:5]),  # many ties
    st.floats(-1, 1, width=32, allow_subnormal=False),
    st.integers(-(2**31), 2**31 - 1).map(lambda bits: torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()),
)


def stable(maps):
    """Ranks by a stable sort in Python: places in the order of falling value, then of the raster."""
    found = torch.empty(maps.flatten(1).shape, dtype=torch.int32)
    for row, pixels in zip(found, maps.flatten(1).tolist(), strict=True):
        order = sorted(range(len(pixels)), key=lambda pixel: -pixels[pixel])
        row[torch.tensor(order)] = torch.arange(len(pixels), dtype=torch.int32)
    return found.view_as(maps)


@settings(max_examples=200, deadline=None)
@given(
    drawn=st.lists(values.filter(lambda value: value == value), min_size=1, max_size=24),
    cols=st.integers(1, 4),
    batch=st.integers(1, 2),
)
def test_ranks_are_those_of_a_stable_sort(drawn, cols, batch):
    rows = -(-len(drawn) // cols)
    flat = torch.tensor((drawn * cols)[: rows * cols])
    maps = torch.stack([flat, flat.flip(0)][:batch]).view(batch, rows, cols)
    expected = stable(maps)
    assert torch.equal(ranks(maps), expected)
    assert torch.equal(ranks(maps.double()), expected)  # another path
    assert torch.equal(ranks(maps.mT.contiguous().mT), expected)  # of other strides
    assert ranks(maps).dtype == torch.int32


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_the_order_of_large_maps_with_many_ties_is_that_of_argsort(levels):
    draw = torch.Generator().manual_seed(levels)
    flat = torch.randint(-levels, levels + 1, (3, 96 * 96), generator=draw) / levels
    flat[flat == 0] *= torch.tensor([1.0, -1.0])[torch.randint(0, 2, (int((flat == 0).sum()),), generator=draw)]
    assert torch.equal(argsort_descending(flat), flat.argsort(dim=1, descending=True, stable=True))


def test_zero_and_minus_zero_tie_and_denormals_do_not():
    maps = torch.tensor([[[0.0, -0.0, TINY, -TINY, 0.0, -0.0]]])
    assert ranks(maps).flatten().tolist() == [1, 2, 0, 5, 3, 4]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_ranks_leave_maps_alone_in_any_mode(mode):
    with mode():
        maps = torch.tensor([[[0.5, -0.0], [0.5, 1.0]]])
        kept = maps.clone()
        assert ranks(maps).tolist() == [[[1, 3], [2, 0]]]
        assert torch.equal(maps.view(torch.int32), kept.view(torch.int32))
