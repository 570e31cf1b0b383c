"""Relevance-CAM: identities in float64, and its starts by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.explainers.relevance_cam import RelevanceCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM
from tests.explainers.networks import CLOSE, rectifiers, setting
from tests.parts import SIMILARITIES, total

TIGHT = {"rtol": 1e-6, "atol": 1e-9}  # behind the epsilon


def test_without_a_head_it_is_sfam_over_the_number_of_positions():
    case = setting()
    positions = case[1].query.activations[0, 0].numel()
    found = RelevanceCAM(epsilon=1e-12)(*case)
    torch.testing.assert_close(found, SFAM()(*case) / positions, **TIGHT)


@pytest.mark.parametrize("pooling", [GAP, GMP, GAPGMP, GeM])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_relevance_at_the_cut_sums_to_its_start(similarity, pooling):
    def positive():
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Softplus())

    tail = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    head = nn.Linear(6, 4, bias=False)
    model, encoded, _ = setting(positive, pooling, head, similarity, tail=tail)
    method = RelevanceCAM(epsilon=1e-12)
    positions = encoded.query.activations[0, 0].numel()
    start = method.initial_relevance(model, encoded)
    found = method.weights(model, encoded).sum(dim=1) * positions
    torch.testing.assert_close(found, start.sum(dim=1), rtol=1e-5, atol=1e-9)
    scores = similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings)
    torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-9)


def test_starts_by_hand():
    model, encoded, _ = setting(similarity=Dot(), target="margin", normalise=False, count=1)
    query = torch.tensor([[1.0, 2.0, -1.0]])
    sides = [torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[-1.0, 2.0, -1.0]])]  # splits 1, 2, -1 and -1, 4, 1
    terms = tuple(
        replace(term, side=replace(term.side, embeddings=e)) for term, e in zip(encoded.terms, sides, strict=True)
    )
    encoded = replace(encoded, query=replace(encoded.query, embeddings=query), terms=terms)
    assert RelevanceCAM("signed").initial_relevance(model, encoded).tolist() == [[2, -2, -2]]
    assert RelevanceCAM("positive").initial_relevance(model, encoded).tolist() == [[2, 0, 0]]
    contrast = RelevanceCAM("contrastive").initial_relevance(model, encoded)[0].tolist()
    assert contrast == pytest.approx([1 / 3, 2 / 3 - 4 / 5, -1 / 5])


def test_the_signed_margin_map_is_the_difference_of_its_comparisons():
    model, encoded, pairs = setting(head=nn.Linear(5, 4), target="margin")
    parts = [RelevanceCAM()(model, replace(encoded, terms=(term,)), pairs) for term in encoded.terms]
    torch.testing.assert_close(RelevanceCAM()(model, encoded, pairs), sum(parts), **CLOSE)


def test_starts_that_have_nothing_to_start_with_are_refused():
    with pytest.raises(UserError, match="target=margin"):
        RelevanceCAM("contrastive")(*setting())
    for start in ("positive", "contrastive"):
        with pytest.raises(UserError, match="start=signed"):
            RelevanceCAM(start)(*setting(similarity=NegativeEuclidean(), target="margin"))
    assert RelevanceCAM("contrastive")(*setting(similarity=Cosine(), target="margin")).isfinite().all()


def test_rules_differ_behind_a_head_and_the_card_is_whole():
    case = setting(rectifiers, head=nn.Linear(5, 4))
    assert not torch.allclose(RelevanceCAM()(*case), RelevanceCAM(rule="epsilon")(*case), rtol=1e-2)
    assert total(RelevanceCAM()(*case)).isfinite().all()
    assert all(formula_and_source(RelevanceCAM))
    assert set(field_notes(RelevanceCAM)) == set(vars(RelevanceCAM()))
