"""Nearest neighbours against sorted lists, scikit-learn and faiss, with many ties."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, SimilarityFunction
from sfam_bench.retrieval.search import find_greatest, neighbours, search
from tests.parts import SIMILARITIES
from tests.retrieval.galleries import LINE, ORDER, Counting, drawn, galleries, tied

EXACT = [Dot(), NegativeEuclidean()]  # their scores of small whole numbers have no rounding


def test_neighbours_by_hand_and_the_first_of_equals_comes_first() -> None:
    scores, positions = neighbours(NegativeEuclidean(), LINE, 4)
    assert positions.tolist() == ORDER
    torch.testing.assert_close(scores[2], torch.tensor([-1.0, -1.0, -4.0, -12.25]))


def test_equals_at_the_cut_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0], [5.0, 1.0, 4.0, 2.0, 3.0]])
    values, positions = find_greatest(scores, 3)
    assert positions.tolist() == [[1, 3, 0], [0, 1, 2], [0, 2, 4]]
    assert values.tolist() == [[3.0, 2.0, 1.0], [0.0, 0.0, 0.0], [5.0, 4.0, 3.0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 3), st.integers(0, 10_000), st.data())
def test_the_greatest_are_those_of_a_stable_sort(
    rows: int, columns: int, most: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, columns - 1))
    scores = torch.randint(-most, most + 1, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    values, positions = find_greatest(scores, k)
    assert torch.equal(positions, scores.argsort(dim=1, descending=True, stable=True)[:, :k])
    assert torch.equal(values, scores.gather(1, positions))


def by_hand(function: SimilarityFunction, gallery: Tensor, k: int) -> list[list[int]]:
    matrix = function.matrix(gallery, gallery).tolist()
    others = [[other for other in range(len(gallery)) if other != item] for item in range(len(gallery))]
    return [sorted(rest, key=lambda other, row=row: -row[other])[:k] for row, rest in zip(matrix, others, strict=True)]


@settings(max_examples=30, deadline=None)
@given(galleries(), st.sampled_from(SIMILARITIES), st.integers(1, 12))
def test_neighbours_are_those_of_a_sorted_list(gallery: Tensor, function: SimilarityFunction, k: int) -> None:
    k = min(k, len(gallery) - 1)
    scores, positions = neighbours(function, gallery, k)
    assert positions.tolist() == by_hand(function, gallery, k)
    assert (scores.diff(dim=1) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(galleries(), st.sampled_from(EXACT), st.integers(1, 15), st.data())
def test_chunks_change_nothing(gallery: Tensor, function: SimilarityFunction, chunk: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(gallery) - 1))
    for ours, whole in zip(neighbours(function, gallery, k, chunk), neighbours(function, gallery, k), strict=True):
        assert torch.equal(ours, whole)


def test_memory_bounds_the_chunk_and_the_gallery_is_scaled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfam_bench.retrieval.search.AT_ONCE", 500)
    counting = Counting()
    assert [len(scores) for scores, _ in search(counting, drawn()[0], 3)] == [8] * 7 + [4]
    assert counting.compared == [8] * 7 + [4]  # 8 x 60 scores at a time
    assert counting.scaled == [60]
    monkeypatch.setattr("sfam_bench.retrieval.search.AT_ONCE", 1)
    assert len([*search(counting, drawn()[0], 3)]) == 60


@pytest.mark.parametrize(("function", "metric"), [(Cosine(), "cosine"), (NegativeEuclidean(), "sqeuclidean")])
def test_neighbours_are_those_of_scikit_learn(function: SimilarityFunction, metric: str) -> None:
    gallery = drawn()[0].double()
    scores, positions = neighbours(function, gallery, 9)
    theirs = NearestNeighbors(n_neighbors=9, algorithm="brute", metric=metric).fit(gallery.numpy())
    distances, order = theirs.kneighbors()  # without an argument each item is left out of its own
    assert np.array_equal(positions.numpy(), order)
    shift = 1 if metric == "cosine" else 0
    np.testing.assert_allclose(shift - scores.numpy(), distances, atol=1e-12)


@pytest.mark.parametrize("k", [1, 7, 88, 89])
def test_of_many_ties_neighbours_are_scikit_learns_distances_sorted_stably(k: int) -> None:
    """Its own search leaves the order of equals to a partition, so the distances are sorted here."""
    gallery = tied()[0]
    distances = pairwise_distances(gallery.numpy(), metric="sqeuclidean")
    assert len(np.unique(distances)) < 20
    own, _ = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(gallery.numpy()).kneighbors()
    np.fill_diagonal(distances, np.inf)
    scores, positions = neighbours(NegativeEuclidean(), gallery, k)
    assert np.array_equal(positions.numpy(), np.argsort(distances, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(-scores.numpy(), own, atol=1e-5)


# Faiss


@pytest.mark.parametrize("function", SIMILARITIES)
@pytest.mark.parametrize("chunk", [None, 7])
def test_faiss_finds_the_same(function: SimilarityFunction, chunk: int | None) -> None:
    pytest.importorskip("faiss")
    gallery = drawn()[0]
    ours, theirs = (neighbours(function, gallery, 11, chunk, engine) for engine in ("torch", "faiss"))
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", EXACT)
@pytest.mark.parametrize("k", [1, 5, 89])
def test_faiss_finds_equals_in_the_place_of_equals(function: SimilarityFunction, k: int) -> None:
    pytest.importorskip("faiss")
    gallery = tied()[0]
    (scores, _), (found, positions) = (neighbours(function, gallery, k, engine=engine) for engine in ("torch", "faiss"))
    assert torch.equal(found, scores.round())
    assert torch.equal(function.matrix(gallery, gallery).gather(1, positions).round(), found)
    assert not (positions == torch.arange(90)[:, None]).any()
    assert all(len(set(row)) == k for row in positions.tolist())
    level = found.diff(dim=1) == 0
    assert (positions.diff(dim=1)[level] > 0).all()  # of the equals that are kept the lower position comes first


def test_what_faiss_cannot_do_is_said() -> None:
    with patch.dict("sys.modules", {"faiss": None}), pytest.raises(UserError, match=r"pip install '\.\[faiss\]'"):
        neighbours(Cosine(), LINE, 2, engine="faiss")
    pytest.importorskip("faiss")
    shared = ("__call__", "split", "direction", "keys", "compare", "matrix")
    other = type("Other", (), {"name": "other", **{name: getattr(Cosine, name) for name in shared}})
    with pytest.raises(UserError, match="faiss does not know the similarity other"):
        neighbours(other(), LINE, 2, engine="faiss")


# What is refused


@pytest.mark.parametrize("k", [0, 5, 6])
def test_a_number_of_neighbours_that_there_is_not(k: int) -> None:
    with pytest.raises(UserError, match=f"^{k} neighbours of each of 5 items"):
        neighbours(Cosine(), LINE, k)


@pytest.mark.parametrize("engine", ["torch", "faiss"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_embedding_that_is_not_finite_is_named(engine: str, value: float) -> None:
    gallery = drawn()[0]
    gallery[[17, 30], 2] = value
    with pytest.raises(UserError, match=r"2 of 60 embeddings hold NaN or infinity \(first: item 17\)"):
        neighbours(Cosine(), gallery, 3, engine=engine)
