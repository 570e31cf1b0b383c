"""Scores of embeddings: splits, linear forms and matrices agree with the score."""

import pytest
import torch

from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean

ALL = [Cosine(), Dot(), NegativeEuclidean()]


@pytest.fixture
def embeddings():
    return torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    query, reference = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert Cosine()(query, reference).item() == pytest.approx(24 / 25)
    assert Dot()(query, reference).item() == 24
    assert NegativeEuclidean()(query, reference).item() == -2


@pytest.mark.parametrize("similarity", ALL, ids=lambda s: s.name)
def test_the_split_sums_to_the_score_and_the_matrix_holds_it(similarity, embeddings):
    query, reference = embeddings
    torch.testing.assert_close(similarity.split(query, reference).sum(dim=1), similarity(query, reference))
    torch.testing.assert_close(similarity.matrix(query, reference).diagonal(), similarity(query, reference))


@pytest.mark.parametrize("similarity", ALL, ids=lambda s: s.name)
def test_greater_is_more_alike_and_order_does_not_matter(similarity, embeddings):
    query, reference = embeddings
    torch.testing.assert_close(similarity(query, reference), similarity(reference, query))
    near = query + 1e-3 * reference
    if similarity.name != "dot":  # the dot product also rewards length
        assert (similarity(query, near) > similarity(query, reference)).all()


@pytest.mark.parametrize("similarity", ALL, ids=lambda s: s.name)
def test_the_linear_forms_of_both_sides_make_the_score(similarity, embeddings):
    query, reference = embeddings
    one = (query * similarity.direction(query, reference)).sum(dim=1)
    other = (reference * similarity.direction(reference, query)).sum(dim=1)
    whole = one + other if similarity.name == "negative_euclidean" else one
    torch.testing.assert_close(whole, similarity(query, reference))


def test_a_zero_embedding_is_like_nothing():
    assert Cosine()(torch.zeros(1, 4), torch.rand(1, 4)).item() == 0
