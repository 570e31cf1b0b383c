"""HiResCAM, XGrad-CAM, LayerCAM, Grad-CAM++, Ablation-CAM, Score-CAM: identities in float64, and by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Similarity, score
from sfam_bench.explainers.ablation_cam import AblationCAM, drops_by_passes, drops_in_closed_form, has_closed_form
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.grad_cam_pp import GradCAMPlusPlus, alpha
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.explainers.score_cam import ScoreCAM, channel_masks
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared import forms
from sfam_bench.explainers.xgrad_cam import XGradCAM
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import AFFINE, CLOSE, HEADS, POOLINGS, SIMILARITIES, TARGETS, explain

shapes = settings(max_examples=20, deadline=None)
any_shape = given(
    channels=st.integers(2, 7),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    similarity=st.sampled_from(SIMILARITIES),
    head=st.sampled_from(sorted(HEADS)),
    normalise=st.booleans(),
)


def build(pooling=GAP, head="none", similarity=SIMILARITIES[0], normalise=True, channels=4, tail=None, signed=False):
    trunk = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Identity() if signed else nn.ReLU())
    embedder = Embedder(pooling(), HEADS[head](channels), tail, normalise)
    return SimilarityModel(trunk, embedder, similarity).double().eval()


def setting(channels=4, rows=3, cols=5, seed=0, target="similarity", **parts):
    torch.manual_seed(seed)
    model = build(channels=channels, **parts)
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64)
    return model, encode_pairs(model, TARGETS[target], *images)


def by_hand(query, reference, pooling=GAP):
    """One pair of one channel, the red of the images, under the dot product; the reference is the same everywhere."""
    trunk = nn.Conv2d(3, 1, 1, bias=False)
    nn.init.dirac_(trunk.weight)
    model = SimilarityModel(trunk, Embedder(pooling(), normalise=False), Dot())
    images = torch.tensor(query).expand(1, 3, -1, -1)
    return model, encode_pairs(model, Similarity(), images, torch.full_like(images, reference))


def gradient(model, encoded):
    activations = encoded.query.activations.clone().requires_grad_()
    score(model.similarity, model.embedder(activations), encoded.terms).sum().backward()
    return activations.grad


# Gradients


def test_layer_cam_drops_negative_derivatives_before_the_sum():
    model, encoded = by_hand([[1.0, -3.0], [0.0, 2.0]], -2.0)  # all derivatives are -1/2
    assert explain(LayerCAM(), model, encoded)[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_grad_cam_under_gmp_by_hand():
    model, encoded = by_hand([[1.0, 3.0], [0.0, 2.0]], 2.0, GMP)
    # the derivative is 2 at the peak and 0 elsewhere, 1/2 in the mean
    assert explain(GradCAM(relu=False), model, encoded)[0].tolist() == [[0.5, 1.5], [0.0, 1.0]]


@shapes
@any_shape
def test_under_gap_hirescam_grad_cam_and_xgrad_cam_are_one(**drawn):
    model, encoded = setting(**drawn)
    expected = explain(GradCAM(relu=False), model, encoded)
    for explainer in (HiResCAM(), XGradCAM(relu=False)):
        torch.testing.assert_close(explain(explainer, model, encoded), expected, **CLOSE)


@pytest.mark.parametrize("tail", [False, True], ids=["last", "early"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_hirescam_and_xgrad_cam_sum_to_activations_times_gradient(pooling, tail):
    later = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Softplus()) if tail else None
    model, encoded = setting(pooling=pooling, head="mlp", tail=later)
    expected = (encoded.query.activations * gradient(model, encoded)).sum(dim=(1, 2, 3))
    for explainer in (HiResCAM(), XGradCAM(relu=False)):
        torch.testing.assert_close(explain(explainer, model, encoded).sum(dim=(1, 2)), expected, **CLOSE)


@pytest.mark.parametrize("explainer", [HiResCAM(), XGradCAM(relu=False), AblationCAM(relative=False, relu=False)])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_margin_map_is_the_map_of_the_positive_minus_that_of_the_negative(explainer, similarity):
    model, encoded = setting(target="margin", pooling=GeM, head="linear", similarity=similarity)
    positive, negative = (explain(explainer, model, replace(encoded, terms=(term,))) for term in encoded.terms)
    torch.testing.assert_close(explain(explainer, model, encoded), positive + negative, **CLOSE)


def test_a_channel_that_sums_to_zero_weighs_nothing_in_xgrad_cam():
    model, encoded = by_hand([[1.0, -1.0]], 2.0)
    assert explain(XGradCAM(relu=False), model, encoded).tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_layer_cam_of_a_target_less_that_of_its_negative_is_hirescam(pooling):
    model, encoded = setting(pooling=pooling, head="linear")
    turned = replace(encoded, terms=tuple(replace(term, sign=-term.sign) for term in encoded.terms))
    ours = explain(LayerCAM(), model, encoded) - explain(LayerCAM(), model, turned)
    torch.testing.assert_close(ours, explain(HiResCAM(), model, encoded), **CLOSE)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_where_every_gradient_is_positive_layer_cam_is_hirescam(pooling):
    model, encoded = setting(pooling=pooling, similarity=Dot(), normalise=False)
    assert gradient(model, encoded).min() >= 0
    torch.testing.assert_close(explain(LayerCAM(), model, encoded), explain(HiResCAM(), model, encoded), **CLOSE)


# Grad-CAM++

GRID = [[1.0, 2.0], [3.0, 4.0]]


def plus_plus(query, reference, pooling=GAP, **fields):
    model, encoded = by_hand(query, reference, pooling)
    maps = explain(GradCAMPlusPlus(**fields), model, encoded)
    return (maps / encoded.query.activations[:, 0]).flatten().tolist()


def test_grad_cam_pp_by_hand():
    # under GAP G = 2 / 4 everywhere, sum(A) = 10: alpha = 0.25 / (0.5 + 10 * 0.125) = 1/7, weight 4 * 1/7 * 1/2
    assert plus_plus(GRID, 2.0) == pytest.approx([2 / 7] * 4)
    # under GMP G = 2 at the 4 alone: alpha = 4 / (8 + 10 * 8) = 1/22
    assert plus_plus(GRID, 2.0, GMP) == pytest.approx([1 / 11] * 4)
    # a gradient below zero gives nothing
    assert plus_plus(GRID, -2.0) == [0.0] * 4


def test_grad_cam_pp_with_the_epsilon_of_others_by_hand():
    assert plus_plus(GRID, 2.0, epsilon=1.0) == pytest.approx([4 * 0.5 * 0.25 / (0.5 + 1.25 + 1.0)] * 4)
    assert plus_plus(GRID, 2.0, GMP, epsilon=1.0) == pytest.approx([2 * 4 / (8 + 80 + 1)] * 4)


def test_alpha_survives_underflow_and_guards_its_pole_alone():
    activations = torch.tensor([[[[1.0, 3.0]], [[-1.0, -3.0]]]])
    assert alpha(torch.full_like(activations, 1e-25), activations, None).tolist() == [[[[0.5, 0.5]], [[0.5, 0.5]]]]
    at_the_pole = alpha(torch.full_like(activations, 0.5), activations, None)
    assert at_the_pole.tolist() == [[[[0.25, 0.25]], [[0.0, 0.0]]]]
    assert alpha(torch.zeros_like(activations), activations, 0.0).abs().max() == 0


# Ablation-CAM


@pytest.mark.parametrize("normalise", [True, False], ids=["l2", "raw"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("head", AFFINE)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_ablation_in_closed_form_is_ablation_channel_by_channel(pooling, head, similarity, target, normalise):
    parts = {"pooling": pooling, "head": head, "similarity": similarity, "normalise": normalise}
    model, encoded = setting(channels=6, target=target, signed=True, **parts)
    assert has_closed_form(model)
    torch.testing.assert_close(
        drops_in_closed_form(model, encoded), drops_by_passes(model, encoded), rtol=0, atol=1e-12
    )


@shapes
@any_shape
def test_ablation_leaves_each_channel_out_once(**drawn):
    model, encoded = setting(pooling=GAPGMP, **drawn)
    activations = encoded.query.activations
    whole = score(model.similarity, encoded.query.embeddings, encoded.terms)
    expected = []
    for k in range(drawn["channels"]):
        without = activations.clone()
        without[:, k] = 0
        expected.append(whole - score(model.similarity, model.embedder(without), encoded.terms))
    expected = torch.stack(expected, dim=1).detach()
    torch.testing.assert_close(drops_by_passes(model, encoded), expected, **CLOSE)
    maps = torch.einsum("bk,bkij->bij", expected, activations)
    torch.testing.assert_close(explain(AblationCAM(False, False), model, encoded), maps, rtol=1e-9, atol=1e-11)


def test_a_channel_that_is_all_of_the_embedding_leaves_nothing():
    model, encoded = setting(
        channels=2, rows=1, cols=1, similarity=Cosine(), head="no_bias", normalise=True, pooling=GAPGMP, seed=0
    )
    assert encoded.query.activations[1, 0] == 0
    torch.testing.assert_close(drops_in_closed_form(model, encoded), drops_by_passes(model, encoded), **CLOSE)


@pytest.mark.parametrize("head", ["none", "linear", "neck"])
def test_on_the_dot_product_ablation_is_sfam(head):
    model, encoded = setting(similarity=Dot(), normalise=False, head=head)
    expected = explain(SFAM(), model, encoded)
    torch.testing.assert_close(explain(AblationCAM(relative=False, relu=False), model, encoded), expected, **CLOSE)


def test_what_is_not_pooled_channel_by_channel_or_not_affine_has_no_closed_form():
    class Softmaxed(GAP):
        def forward(self, activations):
            return super().forward(activations).softmax(dim=1)

    assert not has_closed_form(build(head="mlp"))
    assert not has_closed_form(build(pooling=Softmaxed))
    assert not has_closed_form(build(tail=nn.Conv2d(4, 4, 1)))
    forgetful = build()
    forgetful.embedder.projection = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))
    assert not has_closed_form(forgetful)


def test_a_negative_score_does_not_turn_the_ablation_map_round():
    model, encoded = setting(similarity=NegativeEuclidean(), normalise=False)
    plain = explain(AblationCAM(relative=False), model, encoded)
    size = encoded.terms[0].side.embeddings.sub(encoded.query.embeddings).square().sum(dim=1)
    torch.testing.assert_close(explain(AblationCAM(), model, encoded) * size[:, None, None], plain, **CLOSE)


def test_ablation_is_finite_where_the_score_is_zero():
    model, encoded = by_hand([[1.0, 2.0]], 0.0)
    assert explain(AblationCAM(), model, encoded).tolist() == [[[0.0, 0.0]]]


# Score-CAM


@shapes
@any_shape
def test_score_cam_masks_with_each_channel_once(**drawn):
    model, encoded = setting(pooling=GMP, **drawn)
    activations = encoded.query.activations
    increases = []
    for k in range(drawn["channels"]):
        channel = activations[:, k : k + 1]
        low, high = channel.amin(dim=(2, 3), keepdim=True), channel.amax(dim=(2, 3), keepdim=True)
        mask = (channel - low) / (high - low + 1e-300)
        increases.append(score(model.similarity, model.embedder(activations * mask), encoded.terms))
    baseline = score(model.similarity, model.embedder(torch.zeros_like(activations)), encoded.terms)
    weights = (torch.stack(increases, dim=1) - baseline[:, None]).softmax(dim=1).detach()
    expected = torch.einsum("bk,bkij->bij", weights, activations)
    torch.testing.assert_close(explain(ScoreCAM(), model, encoded), expected, **CLOSE)


def test_masks_run_from_zero_to_one_and_a_constant_channel_masks_all():
    masks = channel_masks(torch.tensor([[[[2.0, 4.0, 6.0]], [[3.0, 3.0, 3.0]], [[-1.0, 0.0, 0.0]]]]))
    assert masks.tolist() == [[[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]]]


@pytest.mark.parametrize("explainer", [AblationCAM(), ScoreCAM()])
def test_chunks_do_not_matter_and_stay_small(explainer, monkeypatch):
    model, encoded = setting(pooling=GeM, head="mlp", target="margin")
    expected = explain(explainer, model, encoded)
    item = encoded.query.activations[0].nbytes
    seen = []
    model.embedder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].nbytes))
    monkeypatch.setattr(forms, "CHUNK", 3 * item + 1)
    torch.testing.assert_close(explain(explainer, model, encoded), expected, **CLOSE)
    assert seen == [3 * item, 3 * item, 2 * item]
    monkeypatch.setattr(forms, "CHUNK", 1)
    torch.testing.assert_close(explain(explainer, model, encoded), expected, **CLOSE)


def test_score_cam_in_image_space_by_the_definition():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 5, 3, stride=4, padding=1), nn.ReLU())
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(5, 4)), Cosine()).double().eval()
    query, reference = torch.rand(2, 2, 3, 24, 20, dtype=torch.float64)
    encoded = encode_pairs(model, Similarity(), query, reference)
    weights = []
    for k in range(5):
        enlarged = nn.functional.interpolate(encoded.query.activations[:, k : k + 1], (24, 20), mode="bilinear")
        low, high = enlarged.amin(dim=(2, 3), keepdim=True), enlarged.amax(dim=(2, 3), keepdim=True)
        seen = model(query * (enlarged - low) / (high - low))
        weights.append(score(model.similarity, seen, encoded.terms).detach())
    expected = torch.einsum("bk,bkij->bij", torch.stack(weights, dim=1).softmax(dim=1), encoded.query.activations)
    pairs = PairBatch(("q0", "q1"), ("r0", "r1"), query, reference)
    torch.testing.assert_close(ScoreCAM("image")(model, encoded, pairs), expected.relu(), **CLOSE)
