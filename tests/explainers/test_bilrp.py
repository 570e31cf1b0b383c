"""BiLRP: from two passes what its definition takes one a dimension for."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.similarity import Dot
from sfam_bench.core.targets import swap_sides
from sfam_bench.explainers.bilrp import BiLRP
from sfam_bench.explainers.input_x_gradient import InputXGradient
from sfam_bench.explainers.shared import pixels
from sfam_bench.explainers.shared.products import before_l2, factor
from sfam_bench.explainers.shared.relevance import relevance
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.poolings import GAPGMP
from tests.explainers.networks import CLOSE, rectifiers, setting
from tests.parts import SIMILARITIES, TARGETS, total

METHODS = [
    BiLRP(),
    BiLRP(pixels="rule", rule="zplus"),
    BiLRP(rule="epsilon", epsilon=0.1),
    BiLRP("cut", rule="zplus"),
]
NAMES = ["box", "zplus", "epsilon", "cut"]


def by_dimension(method, model, side):
    """Relevance of each position for each embedding dimension, by a pass of its own."""
    function, entry = method.branch(model)
    dims = side.embeddings.shape[1]
    one = torch.eye(dims, dtype=torch.float64)
    passes = [
        relevance(method.rules(), function, method.inputs(side), lambda e, d=d: one[d].expand_as(e), entry)
        for d in range(dims)
    ]
    return torch.stack(passes, dim=1).sum(dim=2)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_it_is_the_sum_of_products_over_dimensions(method, similarity):
    model, encoded, pairs = setting(head=nn.Linear(5, 4), similarity=similarity, size=(6, 5))
    sides = (encoded.query, encoded.terms[0].side.side_for("a test"))
    a, b = (by_dimension(method, model, side) for side in sides)
    points = torch.einsum("bdij,bdxy->bijxy", a, b)
    raw = [before_l2(model, side.activations).detach() for side in sides]
    points = points * factor(model, *raw)[:, :, None, None, None]
    torch.testing.assert_close(method(model, encoded, pairs), points.sum(dim=(3, 4)), **CLOSE)
    torch.testing.assert_close(method(model, swap_sides(encoded), pairs), points.sum(dim=(1, 2)), **CLOSE)


@pytest.mark.parametrize("rule", ["zplus", "epsilon", "gamma"])
def test_at_the_cut_without_a_head_it_is_the_similarity_decomposition(rule):
    case = setting(similarity=Dot(), normalise=False)
    found = BiLRP("cut", rule, epsilon=1e-12)(*case)
    torch.testing.assert_close(found, SimilarityDecomposition()(*case), rtol=1e-6, atol=1e-12)


def test_at_the_cut_behind_a_linear_head_it_is_the_similarity_decomposition():
    case = setting(head=nn.Linear(5, 4, bias=False), similarity=Dot(), normalise=False)
    found = BiLRP("cut", epsilon=1e-12)(*case)
    torch.testing.assert_close(found, SimilarityDecomposition()(*case), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", [BiLRP(epsilon=1e-12), BiLRP(epsilon=1e-12, pixels="rule", rule="zplus")])
def test_without_biases_it_sums_to_the_score(method):
    model, encoded, pairs = setting(lambda: rectifiers(bias=False), head=nn.Linear(5, 4, bias=False))
    scores = model.similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings)
    torch.testing.assert_close(total(method(model, encoded, pairs)), scores, rtol=1e-6, atol=1e-9)


def test_by_epsilon_without_biases_it_is_input_x_gradient_of_the_dot_product():
    case = setting(lambda: rectifiers(bias=False), similarity=Dot(), normalise=False)
    found = BiLRP(rule="epsilon", epsilon=1e-13, pixels="rule")(*case)
    torch.testing.assert_close(found, InputXGradient()(*case), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_margin_map_is_the_difference_of_its_comparisons(method):
    model, encoded, pairs = setting(head=nn.Linear(5, 4), target="margin")
    parts = [method(model, replace(encoded, terms=(term,)), pairs) for term in encoded.terms]
    torch.testing.assert_close(method(model, encoded, pairs), sum(parts), **CLOSE)
    assert parts[1].abs().max() > 0


@pytest.mark.parametrize("target", TARGETS)
def test_chunks_stay_small_and_do_not_matter(target, monkeypatch):
    model, encoded, pairs = setting(pooling=GAPGMP, target=target, count=3)
    expected = BiLRP()(model, encoded, pairs)
    seen = []
    model.trunk[2].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(pixels, "PIXELS", 2 * 7 * 5)
    torch.testing.assert_close(BiLRP()(model, encoded, pairs), expected, **CLOSE)
    assert seen == [2, 1] * (len(encoded.terms) + 1)


def test_bad_fields_are_refused_and_the_card_is_whole():
    for fields in ({"gamma": -0.1}, {"epsilon": 0.0}):
        with pytest.raises(UserError):
            BiLRP(**fields)
    assert all(formula_and_source(BiLRP))
    assert set(field_notes(BiLRP)) == set(vars(BiLRP()))
