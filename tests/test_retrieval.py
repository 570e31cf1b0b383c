"""Retrieval by hand, and nearest neighbours against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.errors import UserError
from sfam_bench.retrieval import neighbours, retrieval
from sfam_bench.similarity import Cosine, Dot, NegativeEuclidean, SimilarityFunction

FUNCTIONS = [Cosine(), Dot(), NegativeEuclidean()]

# Five points on a line; items 0 and 1 are at one place, so every other item is as far from one as from the other.
LINE = torch.tensor([[0.0], [0.0], [1.0], [3.0], [4.5]])
LABELS = torch.tensor([7, 9, 7, 9, 9])
# neighbours by -|x - y|, of equals the first:   0: 1 2 3 4   1: 0 2 3 4   2: 0 1 3 4   3: 4 2 0 1   4: 3 2 0 1
# those of the same class (x) or not (.):        0: . x . .   1: . . x x   2: x . . .   3: x . . x   4: x . . x
ORDER = [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [4, 2, 0, 1], [3, 2, 0, 1]]


def test_neighbours_by_hand_and_the_first_of_equals_comes_first() -> None:
    scores, positions = neighbours(NegativeEuclidean(), LINE, 4)
    assert positions.tolist() == ORDER
    torch.testing.assert_close(scores[2], torch.tensor([-1.0, -1.0, -4.0, -12.25]))


def test_measures_by_hand() -> None:
    found = retrieval(NegativeEuclidean(), LINE, LABELS, recall_at=(1, 2, 3))
    assert found["count"] == 5
    assert found["recall_at_1"] == pytest.approx(3 / 5)  # 2, 3, 4
    assert found["recall_at_2"] == pytest.approx(4 / 5)  # and 0
    assert found["recall_at_3"] == pytest.approx(1.0)
    # R is 1 for the items of class 7 and 2 for those of class 9
    assert found["r_precision"] == pytest.approx((0 + 0 + 1 + 1 / 2 + 1 / 2) / 5)
    assert found["map_at_r"] == pytest.approx((0 + 0 + 1 + 1 / 2 + 1 / 2) / 5)


def test_map_at_r_minds_the_order_where_r_precision_does_not() -> None:
    line, labels = torch.tensor([[0.0], [1.0], [2.5], [4.5]]), torch.tensor([1, 0, 1, 1])
    # of class 1, R = 2:  item 0: . x (x)   item 2: . x (x), its nearest being 1   item 3: x . (x)
    found = retrieval(NegativeEuclidean(), line, labels, recall_at=(1,))
    assert found["count"] == 3
    assert found["r_precision"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert found["map_at_r"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)


def test_an_item_alone_in_its_class_is_found_but_never_asked() -> None:
    found = retrieval(NegativeEuclidean(), LINE, torch.tensor([7, 1, 7, 9, 9]), recall_at=(1,))
    assert found["count"] == 4
    assert found["recall_at_1"] == pytest.approx(3 / 4)  # 0 finds 1


def test_a_larger_k_than_there_are_items_is_all_of_them() -> None:
    assert retrieval(NegativeEuclidean(), LINE, LABELS, recall_at=(100,))["recall_at_100"] == 1.0


def test_no_class_of_two_is_said() -> None:
    with pytest.raises(UserError, match="no class has two images"):
        retrieval(Cosine(), LINE, torch.arange(5))


@st.composite
def galleries(draw: st.DrawFn) -> torch.Tensor:
    """Small whole numbers, so that ties are many and scores exact."""
    items, dims = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    values = draw(st.lists(st.integers(-3, 3), min_size=items * dims, max_size=items * dims))
    return torch.tensor(values, dtype=torch.float64).reshape(items, dims)


def by_hand(function: SimilarityFunction, gallery: torch.Tensor, k: int) -> list[list[int]]:
    matrix = function.matrix(gallery, gallery).tolist()
    others = [[other for other in range(len(gallery)) if other != item] for item in range(len(gallery))]
    return [sorted(rest, key=lambda other, row=row: -row[other])[:k] for row, rest in zip(matrix, others, strict=True)]


@settings(max_examples=30, deadline=None)
@given(galleries(), st.sampled_from(FUNCTIONS), st.integers(1, 12))
def test_neighbours_are_those_of_a_sorted_list(gallery: torch.Tensor, function: SimilarityFunction, k: int) -> None:
    k = min(k, len(gallery) - 1)
    scores, positions = neighbours(function, gallery, k)
    assert positions.tolist() == by_hand(function, gallery, k)
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_chunks_change_nothing(function: SimilarityFunction) -> None:
    gallery = torch.randn(23, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = neighbours(function, gallery, 6)
    for chunk in (1, 4, 23, 100):
        scores, positions = neighbours(function, gallery, 6, chunk)
        assert torch.equal(positions, expected[1])
        torch.testing.assert_close(scores, expected[0])


@settings(max_examples=30, deadline=None)
@given(galleries(), st.data())
def test_measures_are_ordered_and_bounded(gallery: torch.Tensor, data: st.DataObject) -> None:
    size = len(gallery)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)))
    if labels.unique(return_counts=True)[1].max() < 2:
        return
    found = retrieval(NegativeEuclidean(), gallery, labels)
    assert 0 <= found["recall_at_1"] <= found["recall_at_2"] <= found["recall_at_4"] <= found["recall_at_8"] <= 1
    assert 0 <= found["map_at_r"] <= found["r_precision"] <= 1
