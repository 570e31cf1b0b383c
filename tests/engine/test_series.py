"""Perturbed images by hand, and in pieces."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.engine.series import Masked, Replaced, Series


def written(series, cuts=()):
    """All inputs of a series, written piece by piece into rows of one larger buffer, as batches are."""
    buffer = torch.full((len(series) + 2, *series.like.shape), torch.nan)
    for first, last in pairwise([0, *sorted(cuts), len(series)]):
        series.write(first, buffer[1 + first : 1 + last])
    assert buffer[[0, -1]].isnan().all()
    return buffer[1:-1]


def test_the_first_ranked_pixels_are_taken_from_the_other_image():
    start, finish = torch.zeros(3, 2, 2), torch.arange(1.0, 13.0).view(3, 2, 2)
    ranks = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
    series = Replaced(start, finish, ranks, torch.tensor([0, 1, 3, 4], dtype=torch.int32))
    found = written(series)
    assert found[:, 0].tolist() == [[[0, 0], [0, 0]], [[0, 2], [0, 0]], [[1, 2], [3, 0]], [[1, 2], [3, 4]]]
    assert found[:, 2].tolist() == [[[0, 0], [0, 0]], [[0, 10], [0, 0]], [[9, 10], [11, 0]], [[9, 10], [11, 12]]]


def test_counts_need_not_rise():
    start, finish = torch.zeros(3, 1, 3), torch.ones(3, 1, 3)
    series = Replaced(start, finish, torch.arange(3, dtype=torch.int32)[None], torch.tensor([2, 0, 3, 2]))
    assert written(series)[:, 1, 0].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]]


def test_a_mask_of_one_keeps_and_of_zero_replaces():
    image, baseline = torch.full((3, 1, 4), 8.0), torch.zeros(3, 1, 4)
    baseline[2] = 4
    masks = torch.tensor([[[1.0, 0.0, 0.5, 0.25]], [[0.0, 1.0, 1.0, 1.0]]])
    found = written(Masked(image, baseline, lambda first, last: masks[first:last], 2))
    assert found[:, 0, 0].tolist() == [[8, 0, 4, 2], [0, 8, 8, 8]]
    assert found[:, 2, 0].tolist() == [[8, 4, 6, 5], [4, 8, 8, 8]]


def test_masks_are_made_only_for_the_rows_that_are_written():
    asked = []

    def masks(first, last):
        asked.append((first, last))
        return torch.zeros(last - first, 2, 2)

    written(Masked(torch.ones(3, 2, 2), torch.zeros(3, 2, 2), masks, 7), cuts=(2, 5))
    assert asked == [(0, 2), (2, 5), (5, 7)]


def test_both_are_series():
    image, ranks = torch.rand(3, 2, 2), torch.arange(4, dtype=torch.int32).view(2, 2)
    series = (
        Replaced(image, image, ranks, torch.tensor([1, 2, 3])),
        Masked(image, image, lambda *_: torch.ones(3, 2, 2), 3),
    )
    for each in series:
        assert isinstance(each, Series)
        assert len(each) == 3
        assert each.like is image


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    items=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 12), max_size=5),
    seed=st.integers(0, 1000),
)
def test_in_pieces_as_at_once(rows, cols, items, cuts, seed):
    draw = torch.Generator().manual_seed(seed)
    start, finish = torch.rand(2, 3, rows, cols, generator=draw)
    ranks = torch.randperm(rows * cols, generator=draw, dtype=torch.int32).view(rows, cols)
    counts = torch.randint(0, rows * cols + 1, (items,), generator=draw)
    masks = torch.rand(items, rows, cols, generator=draw)
    for series in (
        Replaced(start, finish, ranks, counts),
        Masked(start, finish, lambda first, last: masks[first:last], items),
    ):
        pieces = written(series, [min(cut, items) for cut in cuts])
        assert not pieces.isnan().any()
        torch.testing.assert_close(pieces, written(series), rtol=0, atol=1e-6 if isinstance(series, Masked) else 0)
    # each row is its definition
    for row, count in zip(written(Replaced(start, finish, ranks, counts)), counts.tolist(), strict=True):
        assert torch.equal(row, torch.where(ranks < count, finish, start))
