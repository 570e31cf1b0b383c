"""METHODS' identities in float64: what the methods must equal, whatever the numbers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity, score, swap_sides
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import channel_form, direction
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import AFFINE, CLOSE, HEADS, POOLINGS, SIMILARITIES, total


class Trunk(nn.Module):
    """Strictly positive activations, so that GeM's clamp is not met."""

    def __init__(self, channels):
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 3, stride=2)

    def forward(self, images):
        return nn.functional.softplus(self.convolution(images))


def setting(pooling=GAP, head="none", similarity=SIMILARITIES[0], normalise=True, channels=6, seed=0, rows=11, cols=7):
    torch.manual_seed(seed)
    trunk, projection = Trunk(channels), HEADS[head](channels)
    model = SimilarityModel(trunk, Embedder(pooling(), projection, None, normalise), similarity).double().eval()
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64)
    pairs = PairBatch(("a", "b"), ("c", "d"), images[0], images[1], ("e", "f"), images[2])
    return model, pairs, encode_pairs(model, Similarity(), images[0], images[1])


def value(model, encoded):
    return score(model.similarity, encoded.query.embeddings, encoded.terms)


def bias_term(model, side, towards):
    """<towards, embedding of pooled zeros>: what no position can carry."""
    zeros = torch.zeros_like(model.embedder.pool(side.activations))
    raw = model.embedder.project(model.embedder.pool(side.activations))
    length = raw.norm(dim=1) if model.embedder.normalise else 1.0
    return (model.embedder.project(zeros) * towards).sum(dim=1) / length


@pytest.mark.parametrize("normalise", [True, False], ids=["l2", "raw"])
@pytest.mark.parametrize("similarity", [Cosine(), Dot()], ids=lambda s: s.name)
@pytest.mark.parametrize("head", AFFINE)
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_decomposition_plus_bias_is_the_score(pooling, head, similarity, normalise):
    model, pairs, encoded = setting(pooling, head, similarity, normalise)
    maps = SimilarityDecomposition()(model, encoded, pairs)
    bias = bias_term(model, encoded.query, direction(model, encoded))
    torch.testing.assert_close(total(maps) + bias, value(model, encoded), **CLOSE)


@pytest.mark.parametrize("head", AFFINE)
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_both_sides_of_a_euclidean_pair_share_the_score(pooling, head):
    model, pairs, encoded = setting(pooling, head, NegativeEuclidean())
    parts = 0
    for seen in (encoded, swap_sides(encoded)):
        maps = SimilarityDecomposition()(model, seen, pairs)
        parts = parts + total(maps) + bias_term(model, seen.query, direction(model, seen))
    torch.testing.assert_close(parts, value(model, encoded), **CLOSE)


@pytest.mark.parametrize("head", AFFINE)
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_pulled_back_cis_plus_bias_is_the_score(pooling, head):
    model, _, encoded = setting(pooling, head)
    towards = direction(model, encoded)
    weights, pooled = channel_form(model, encoded.query, towards)
    found = (weights * pooled).sum(dim=1) + bias_term(model, encoded.query, towards)
    torch.testing.assert_close(found, value(model, encoded), **CLOSE)


@torch.no_grad()
def test_cis_without_head_is_the_split_of_the_cosine():
    model, _, encoded = setting()
    p, q = (side.activations.mean(dim=(2, 3)) for side in (encoded.query, encoded.terms[0].side))
    cis = SFAM().weights(model, encoded.query, encoded.terms[0].side)
    torch.testing.assert_close(cis, p * q / (p.norm(dim=1) * q.norm(dim=1))[:, None], **CLOSE)


@torch.no_grad()
def test_decomposition_without_head_is_stylianou_and_zhu():
    model, pairs, encoded = setting()
    a, b = encoded.query.activations, encoded.terms[0].side.activations
    n = a[0, 0].numel()
    lengths = a.mean(dim=(2, 3)).norm(dim=1) * b.mean(dim=(2, 3)).norm(dim=1)
    point_to_point = torch.einsum("bkij,bkxy->bijxy", a, b) / (n * n * lengths[:, None, None, None, None])
    torch.testing.assert_close(
        SimilarityDecomposition()(model, encoded, pairs), point_to_point.sum(dim=(3, 4)), **CLOSE
    )


@pytest.mark.parametrize("pooling", [GAP])
@pytest.mark.parametrize("head", ["none", "no_bias"])
@torch.no_grad()
def test_gamma_zero_is_the_exact_split_and_gamma_one_is_sfam(pooling, head):
    model, pairs, encoded = setting(pooling, head)
    exact = SimilarityDecomposition()(model, encoded, pairs)
    n = exact[0].numel()
    torch.testing.assert_close(SFAM(gamma=0.0)(model, encoded, pairs), exact * n, **CLOSE)
    assert not torch.allclose(SFAM(gamma=1.0)(model, encoded, pairs), exact * n)


@pytest.mark.parametrize("normalise", [True, False], ids=["l2", "raw"])
@pytest.mark.parametrize("head", ["none", "no_bias"])
@torch.no_grad()
def test_grad_cam_on_cosine_sums_to_zero(head, normalise):
    model, pairs, encoded = setting(head=head, normalise=normalise)
    maps = GradCAM(relu=False)(model, encoded, pairs)
    assert total(maps).abs().max() < 1e-14
    assert maps.abs().max() > 1e-6


@torch.no_grad()
def test_grad_cam_on_cosine_has_its_closed_form():
    model, pairs, encoded = setting(head="no_bias")
    a = encoded.query.activations
    e = model.embedder.project(model.embedder.pool(a))
    u, v = encoded.query.embeddings, encoded.terms[0].side.embeddings
    s = (u * v).sum(dim=1, keepdim=True)
    weights = ((v - s * u) @ model.embedder.projection.weight) / e.norm(dim=1, keepdim=True) / a[0, 0].numel()
    expected = torch.einsum("bk,bkij->bij", weights, a)
    torch.testing.assert_close(GradCAM(relu=False)(model, encoded, pairs), expected, **CLOSE)


@torch.no_grad()
def test_grad_cam_on_the_dot_product_is_zhus_overall_map():
    model, pairs, encoded = setting(head="no_bias", similarity=Dot(), normalise=False)
    exact = SimilarityDecomposition()(model, encoded, pairs)
    torch.testing.assert_close(GradCAM(relu=False)(model, encoded, pairs), exact, **CLOSE)


@pytest.mark.parametrize("explainer", [SimilarityDecomposition(), SFAM(), SFAM(gamma=0.5), GradCAM(relu=False)])
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_the_margin_map_is_the_map_of_the_positive_minus_that_of_the_negative(explainer, pooling):
    model, pairs, _ = setting(pooling, "linear")
    margin = encode_pairs(model, Margin(), pairs.query, pairs.reference, pairs.negative)
    positive, negative = (replace(margin, terms=(replace(term, sign=1.0),)) for term in margin.terms)
    expected = explainer(model, positive, pairs) - explainer(model, negative, pairs)
    torch.testing.assert_close(explainer(model, margin, pairs), expected, **CLOSE)


@torch.no_grad()
def test_lafam_ignores_the_reference_and_pair_methods_do_not():
    model, pairs, encoded = setting()
    other = encode_pairs(model, Similarity(), pairs.query, pairs.negative)
    torch.testing.assert_close(LaFAM()(model, encoded, pairs), LaFAM()(model, other, pairs))
    for explainer in (SFAM(), SimilarityDecomposition(), GradCAM()):
        assert not torch.allclose(explainer(model, encoded, pairs), explainer(model, other, pairs))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 9),
    rows=st.integers(3, 14),
    cols=st.integers(3, 14),
    seed=st.integers(0, 10_000),
    pooling=st.sampled_from(POOLINGS),
    head=st.sampled_from(AFFINE),
)
def test_the_split_holds_for_any_shape(channels, rows, cols, seed, pooling, head):
    with torch.no_grad():
        model, pairs, encoded = setting(pooling, head, Dot(), False, channels, seed, rows, cols)
        maps = SimilarityDecomposition()(model, encoded, pairs)
        bias = bias_term(model, encoded.query, direction(model, encoded))
        torch.testing.assert_close(total(maps) + bias, value(model, encoded), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("explainer", [SFAM(gamma=0.0), SimilarityDecomposition(), GradCAM(relu=False)])
@torch.no_grad()
def test_an_mlp_head_is_explained_by_its_local_jacobian(explainer):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model = SimilarityModel(Trunk(6), Embedder(GAP(), head, None, False), Dot()).double().eval()
    images = torch.rand(2, 2, 3, 11, 7, dtype=torch.float64)
    encoded = encode_pairs(model, Similarity(), *images)
    pairs = PairBatch(("a", "b"), ("c", "d"), *images)
    step = 1e-6
    pooled = encoded.query.activations.mean(dim=(2, 3))
    towards = encoded.terms[0].side.embeddings
    jacobian = torch.stack(
        [((head(pooled + step * unit) - head(pooled - step * unit)) * towards).sum(dim=1) / (2 * step) for unit in
         torch.eye(6, dtype=torch.float64)], dim=1,
    )  # fmt: skip
    expected = torch.einsum("bk,bkij->bij", jacobian, encoded.query.activations)
    found = explainer(model, encoded, pairs)
    scale = 1.0 if isinstance(explainer, SFAM) else expected[0].numel()
    torch.testing.assert_close(found * scale, expected, rtol=1e-6, atol=1e-8)
