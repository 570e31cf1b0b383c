"""Zhu's decomposition and Stylianou's: identities in float64, slices, numbers by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.core.records import Encoded, PairBatch, Reference, Side, Term
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity, score, swap_sides
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.shared import forms
from sfam_bench.explainers.shared.points import local_points, point_to_point, pooled_points
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.explainers.stylianou import Stylianou
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.models.poolings import GAP, GAPGMP, GMP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import AFFINE, CLOSE, HEADS, POOLINGS, SIMILARITIES, explain, total

anything = given(
    pooling=st.sampled_from(POOLINGS),
    head=st.sampled_from(AFFINE),
    similarity=st.sampled_from(SIMILARITIES),
    normalise=st.booleans(),
    channels=st.integers(1, 6),
    rows=st.integers(2, 9),
    cols=st.integers(2, 9),
    seed=st.integers(0, 10_000),
)
some = settings(max_examples=30, deadline=None)


class Trunk(nn.Module):
    """One grid cell for two pixels; positive activations unless `signed`, so that GeM's clamp is not met."""

    def __init__(self, channels, signed=False):
        super().__init__()
        self.signed = signed
        self.convolution = nn.Conv2d(3, channels, 2, stride=2)

    def forward(self, images):
        convolved = self.convolution(images - 0.5)
        return convolved if self.signed else nn.functional.softplus(convolved)


def setting(
    pooling=GAP,
    head="linear",
    similarity=SIMILARITIES[0],
    normalise=True,
    channels=5,
    rows=6,
    cols=9,
    seed=0,
    target="similarity",
    tail=None,
    signed=False,
):
    torch.manual_seed(seed)
    embedder = Embedder(pooling(), HEADS[head](channels), tail, normalise)
    model = SimilarityModel(Trunk(channels, signed), embedder, similarity).double().eval()
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64)
    return model, encode_pairs(model, {"similarity": Similarity(), "margin": Margin()}[target], *images)


# By hand: one channel a dimension, no head; query (2, 0 | 0, 1), reference (1 | -1) and (3 | 1)

QUERY = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
REFERENCE = torch.tensor([[[[1.0, 3.0]], [[-1.0, 1.0]]]])


def by_hand(explainer, pooling=GAP, similarity=SIMILARITIES[1], head=None):
    model = SimilarityModel(nn.Identity(), Embedder(pooling(), head, None, False), similarity).eval()
    images = torch.zeros(1, 3, 2, 4)
    with torch.no_grad():
        query, reference = (Side(images, a, model.embedder(a)) for a in (QUERY, REFERENCE))
    encoded = Encoded(query, (Term(1.0, Reference.of(reference)),), Passes(model))
    return explainer(model, encoded, PairBatch(("q",), ("r",), images, images))[0, 0].tolist()


def test_zhu_by_hand():
    # GAP: positions (1, 0), (0, 1/2) and (1/2, -1/2), (3/2, 1/2): products 1/2, 3/2 and -1/4, 1/4
    assert by_hand(Zhu(rectify="none")) == [2.0, 0.0]
    assert by_hand(Zhu(rectify="pair")) == [2.0, 0.25]
    # GMP: (2, 0), (0, 1) and nothing, (3, 1)
    assert by_hand(Zhu(), GMP) == [6.0, 1.0]
    # |e| = sqrt(1 + 1/4), |e'| = 2
    assert by_hand(Zhu(), similarity=Cosine()) == pytest.approx([2 / 5**0.5, 0.25 / 5**0.5])
    assert by_hand(Zhu(), similarity=NegativeEuclidean()) == [4.0, 0.5]


def test_zhu_behind_a_head_by_hand():
    head = nn.Linear(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -2.0]]))
        head.bias.fill_(3.0)
    # positions 1, -1 and 3/2, 1/2; half the bias on each: 5/2, 1/2 and 3, 2
    assert by_hand(Zhu(), head=head) == [2.0, 0.0]
    assert by_hand(Zhu("none"), head=head) == [2.0, -2.0]
    assert by_hand(Zhu("map"), head=head) == [2.0, 0.0]
    assert by_hand(Zhu("none", "spread"), head=head) == [12.5, 2.5]


def test_stylianou_by_hand():
    # |p| = sqrt(5) / 2 and |q| = 2, and no head, whatever the model
    for similarity in SIMILARITIES:
        for head in (None, nn.Linear(2, 3)):
            found = by_hand(Stylianou(), similarity=similarity, head=head)
            assert found == pytest.approx([2 / 5**0.5, 0.0])


# Identities


@some
@anything
def test_with_the_bias_spread_zhu_sums_to_the_score(**drawn):
    model, encoded = setting(**drawn)
    whole = score(model.similarity, encoded.query.embeddings, encoded.terms)
    if isinstance(model.similarity, NegativeEuclidean):  # the product's part of it
        sides = (encoded.query, encoded.terms[0].side.side_for("a test"))
        whole = whole + sum(side.embeddings.square().sum(dim=1) for side in sides)
    torch.testing.assert_close(total(explain(Zhu("none", "spread"), model, encoded)), whole, rtol=1e-9, atol=1e-10)


@some
@anything
def test_zhu_behind_a_bias_free_head_is_the_similarity_decomposition(**drawn):
    drawn["head"] = "no_bias" if drawn["head"] in ("linear", "neck") else drawn["head"]
    drawn["similarity"] = Dot() if isinstance(drawn["similarity"], NegativeEuclidean) else drawn["similarity"]
    model, encoded = setting(**drawn)
    expected = explain(SimilarityDecomposition(), model, encoded)
    torch.testing.assert_close(explain(Zhu(rectify="none"), model, encoded), expected, **CLOSE)


@some
@anything
def test_stylianou_is_zhu_without_head_and_rectification_and_sums_to_the_cosine(**drawn):
    model, encoded = setting(**drawn)
    found = explain(Stylianou(), model, encoded)
    bare, pairs = setting(**{**drawn, "head": "none", "similarity": Cosine()})
    bare.trunk = model.trunk
    sides = [
        replace(s, embeddings=bare.embedder(s.activations))
        for s in (encoded.query, encoded.terms[0].side.side_for("a test"))
    ]
    seen = replace(pairs, query=sides[0], terms=(Term(1.0, Reference.of(sides[1])),))
    torch.testing.assert_close(found, explain(Zhu(rectify="none"), bare, seen), **CLOSE)
    torch.testing.assert_close(found, explain(SimilarityDecomposition(), bare, seen), **CLOSE)
    torch.testing.assert_close(total(found), Cosine()(sides[0].embeddings, sides[1].embeddings), **CLOSE)


@some
@anything
def test_grad_cam_on_the_dot_product_under_gap_is_zhus_overall_map(**drawn):
    model, encoded = setting(**{**drawn, "pooling": GAP, "head": "no_bias", "similarity": Dot(), "normalise": False})
    expected = explain(GradCAM(relu=False), model, encoded)
    torch.testing.assert_close(explain(Zhu(rectify="none"), model, encoded), expected, **CLOSE)


def test_rectification_changes_nothing_where_no_pair_speaks_against():
    model, encoded = setting(head="none")
    assert point_to_point(model, encoded.query, encoded.terms[0].side.side_for("a test")).min() > 0
    expected = explain(Zhu("none"), model, encoded)
    for rectify in ("pair", "map"):
        torch.testing.assert_close(explain(Zhu(rectify), model, encoded), expected, **CLOSE)


@pytest.mark.parametrize("head", HEADS)
def test_clipping_pairs_adds_what_speaks_against(head):
    model, encoded = setting(head=head, normalise=False, similarity=Dot(), signed=True)
    against = (
        point_to_point(model, encoded.query, encoded.terms[0].side.side_for("a test")).clamp_max(0).sum(dim=(3, 4))
    )
    assert against.min() < 0
    expected = explain(Zhu("none"), model, encoded) - against
    torch.testing.assert_close(explain(Zhu("pair"), model, encoded), expected, **CLOSE)


@pytest.mark.parametrize("rectify", ["none", "pair"])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("explainer", [Zhu, Stylianou])
def test_the_margin_map_is_the_map_of_the_positive_minus_that_of_the_negative(explainer, similarity, rectify):
    made = explainer() if explainer is Stylianou else Zhu(rectify, "spread")
    model, encoded = setting(similarity=similarity, target="margin", pooling=GAPGMP)
    positive, negative = (explain(made, model, replace(encoded, terms=(replace(t, sign=1.0),))) for t in encoded.terms)
    torch.testing.assert_close(explain(made, model, encoded), positive - negative, **CLOSE)
    assert explain(made, model, encoded).min() < 0


def test_the_map_of_a_margin_is_clipped_as_a_whole():
    model, encoded = setting(target="margin")
    torch.testing.assert_close(explain(Zhu("map"), model, encoded), explain(Zhu("none"), model, encoded).relu())


# Both images, points


@pytest.mark.parametrize("bias", ["drop", "spread"])
@pytest.mark.parametrize("rectify", ["none", "pair"])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_overall_maps_are_sums_of_the_tensor(similarity, rectify, bias):
    model, encoded = setting(similarity=similarity)
    # a reference of another size
    torch.manual_seed(1)
    other = model.encode(torch.rand(2, 3, 4, 10, dtype=torch.float64))
    encoded = replace(encoded, terms=(Term(1.0, Reference.of(other)),))
    tensor = point_to_point(model, encoded.query, other, bias)
    tensor = tensor.clamp_min(0) if rectify == "pair" else tensor
    assert tensor.shape == (2, 3, 4, 2, 5)
    torch.testing.assert_close(explain(Zhu(rectify, bias), model, encoded), tensor.sum(dim=(3, 4)), **CLOSE)
    torch.testing.assert_close(explain(Zhu(rectify, bias), model, swap_sides(encoded)), tensor.sum(dim=(1, 2)), **CLOSE)


# Ways to the same points


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_through_the_pooled_channels_or_a_backward_pass_a_dimension_the_points_are_the_same(pooling, head):
    model, encoded = setting(pooling, head)
    for ours, theirs in zip(pooled_points(model, encoded.query), local_points(model, encoded.query), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("tail", [None, nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.Softplus())], ids=["", "early"])
def test_what_is_not_affine_is_taken_by_its_local_jacobian(tail):
    model, encoded = setting(head="mlp", normalise=False, tail=tail)
    activations = encoded.query.activations
    _, points = local_points(model, encoded.query)
    step = 1e-6
    for position in (0, 7):
        moved = activations.clone().flatten(2)
        moved[:, :, position] *= 1 + step
        change = (model.embedder(moved.view_as(activations)) - encoded.query.embeddings).detach() / step
        torch.testing.assert_close(points[:, position], change, rtol=1e-4, atol=1e-7)
    spread = total(explain(Zhu("none", "spread"), model, encoded))
    torch.testing.assert_close(spread, score(model.similarity, encoded.query.embeddings, encoded.terms), **CLOSE)


def test_stylianou_at_an_early_cut_takes_the_features_there():
    model, encoded = setting(tail=nn.Conv2d(5, 5, 1))
    p, q = (side.activations.mean(dim=(2, 3)) for side in (encoded.query, encoded.terms[0].side.side_for("a test")))
    torch.testing.assert_close(total(explain(Stylianou(), model, encoded)), Cosine()(p, q), **CLOSE)


def test_pairs_of_positions_are_never_all_held_at_once(monkeypatch):
    model, encoded = setting()
    expected = explain(Zhu(), model, encoded)
    for chunk in (1, 5 * 12 * 8 + 1):
        monkeypatch.setattr(forms, "CHUNK", chunk)
        torch.testing.assert_close(explain(Zhu(), model, encoded), expected, **CLOSE)
