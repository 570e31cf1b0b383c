"""FGGB, xSSAB, FAME, Interaction-CAM, averaged transforms, DAAM, similarity attention, Finer-CAM, gScoreCAM."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Reference, Term
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, unit
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.averaged_transforms import AveragedTransforms
from sfam_bench.explainers.daam import DAAM, contribution_weights
from sfam_bench.explainers.fam import FAM
from sfam_bench.explainers.fame import FAME, LUMA
from sfam_bench.explainers.fggb import FGGB
from sfam_bench.explainers.finer_cam import FinerCAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.grad_eclip import GradECLIP
from sfam_bench.explainers.gscore_cam import GScoreCAM
from sfam_bench.explainers.interaction_cam import InteractionCAM, interact
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.explainers.shared.forms import target_gradient
from sfam_bench.explainers.shared.pixels import image_gradient
from sfam_bench.explainers.shared.prepare import Bank
from sfam_bench.explainers.similarity_attention import SimilarityAttention
from sfam_bench.explainers.xssab import XSSAB
from sfam_bench.models.similarity_model import encode_pairs
from tests.explainers.networks import CLOSE, setting
from tests.explainers.test_attention import encoded as transformer_pairs
from tests.explainers.test_attention import maps_of
from tests.parts import SIMILARITIES, seeded
from tests.transformers import tiny_transformer

LINEAR = seeded("linear", 5)


def scaled(maps):
    return maps / maps.abs().amax(dim=(1, 2), keepdim=True)


# FGGB


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_fggb_by_its_definition_one_dimension_at_a_time(similarity):
    model, encoded, pairs = setting(head=LINEAR, similarity=similarity, normalise=False)
    found = FGGB(threshold=0.3)(model, encoded, pairs)
    for row, image in enumerate(pairs.query):
        other = encoded.terms[0].side.embeddings[row : row + 1]
        expected = torch.zeros_like(image[0])
        for k in range(5):
            x = image[None].clone().requires_grad_()
            e = model(x)
            e = unit(e) if similarity.name == "cosine" else e
            (gradient,) = torch.autograd.grad(e[0, k], x)
            size = gradient[0].abs().mean(dim=0)
            weight = similarity.split(model(image[None]), other)[0, k] - 0.3 / 5
            expected = expected + weight.detach() * size / size.norm()
        torch.testing.assert_close(found[row], expected, **CLOSE)


def test_fggb_of_a_margin_is_the_difference_and_a_threshold_is_subtracted_evenly():
    model, encoded, pairs = setting(head=LINEAR, target="margin")
    near, far = ((replace(encoded, terms=(replace(term, sign=1.0),))) for term in encoded.terms)
    found = [FGGB()(model, one, pairs) for one in (encoded, near, far)]
    torch.testing.assert_close(found[0], found[1] - found[2], **CLOSE)
    steps = [FGGB(threshold=t)(model, near, pairs) for t in (0.0, 0.2, 0.4)]
    torch.testing.assert_close(steps[0] - steps[1], steps[1] - steps[2], **CLOSE)
    assert (steps[0] - steps[1]).min() > 0


# xSSAB


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_xssab_is_the_gradient_of_the_accepting_dimensions_minus_that_of_the_rejecting_ones(similarity):
    model, encoded, pairs = setting(head=LINEAR, similarity=similarity, normalise=False)
    threshold = float(similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings).mean())
    found = XSSAB(threshold)(model, encoded, pairs)
    for row, image in enumerate(pairs.query):
        other = encoded.terms[0].side.embeddings[row : row + 1]
        sizes = []
        for accepts in (True, False):
            x = image[None].clone().requires_grad_()
            shares = similarity.split(model(x), other)[0]
            chosen = [share for share in shares if (float(share.detach()) >= threshold / 5) == accepts]
            assert chosen, "both groups must have a dimension, or the test shows nothing"
            (gradient,) = torch.autograd.grad(sum(chosen), x)
            sizes.append(gradient[0].abs().mean(dim=0))
        torch.testing.assert_close(found[row], sizes[0] - sizes[1], **CLOSE)


def test_xssab_with_a_threshold_below_all_shares_is_the_magnitude_of_the_gradient():
    model, encoded, pairs = setting(head=LINEAR, target="margin")
    expected = image_gradient(model, encoded, pairs.query, torch.arange(2)).abs().mean(dim=1)
    torch.testing.assert_close(XSSAB(-100.0)(model, encoded, pairs), expected, **CLOSE)
    torch.testing.assert_close(XSSAB(100.0)(model, encoded, pairs), -expected, **CLOSE)


# FAME


def test_one_step_of_fame_is_the_luminance_of_the_gradient():
    model, encoded, pairs = setting(head=LINEAR)
    gradient = image_gradient(model, encoded, pairs.query, torch.arange(2))
    for row, maps in enumerate(FAME(steps=1, eta=0.1, blur=0)(model, encoded, pairs)):
        one = gradient[row]
        expected = sum(weight * channel for weight, channel in zip(LUMA, one, strict=True)) * 0.1 / one.abs().max()
        torch.testing.assert_close(maps, expected.abs(), **CLOSE)


@pytest.mark.parametrize(("evidence", "sign"), [("similar", -1), ("dissimilar", 1)])
def test_the_steps_of_fame_lower_or_raise_the_score(evidence, sign):
    model, encoded, pairs = setting(head=LINEAR)
    moved = pairs.query.clone()
    for _ in range(3):
        gradient = image_gradient(model, encoded, moved, torch.arange(2))
        moved = moved + sign * 0.01 * torch.stack([one / one.abs().max() for one in gradient])
    before, after = (model.similarity(model(x), encoded.terms[0].side.embeddings) for x in (pairs.query, moved))
    assert (sign * (after - before) > 0).all()
    expected = torch.einsum("c,bcij->bij", torch.tensor(LUMA, dtype=torch.float64), moved - pairs.query).abs()
    torch.testing.assert_close(FAME(evidence, 3, 0.01, blur=0)(model, encoded, pairs), expected, **CLOSE)


# Interaction-CAM


@pytest.mark.parametrize("reduction", ["mean", "max", "attention"])
def test_interaction_cam_weighs_channels_by_both_images(reduction):
    model, encoded, pairs = setting(head=LINEAR)
    a, b = (side.activations for side in (encoded.query, encoded.terms[0].side))
    maps = InteractionCAM(reduction)(model, encoded, pairs)
    for row in range(len(a)):
        joint = []
        for channel in range(a.shape[1]):
            parts = []
            for activations in (a[row], b[row]):
                mean = activations.mean(dim=(1, 2))
                attention = (activations * mean[:, None, None]).sum(dim=0).flatten().softmax(dim=0)
                values = {
                    "mean": mean[channel],
                    "max": activations[channel].max(),
                    "attention": (attention * activations[channel].flatten()).sum(),
                }
                parts.append(values[reduction])
            joint.append(parts[0] * parts[1])
        weights = torch.stack(joint)[:, None, None]
        gradient = target_gradient(model, encoded)[row].relu()
        torch.testing.assert_close(maps[row], (weights * gradient * a[row]).sum(dim=0), **CLOSE)


def test_interaction_cam_without_interaction_is_layer_cam():
    model, encoded, pairs = setting(head=LINEAR)
    ones = encoded.query.activations.mean(dim=(2, 3)).new_ones(2, 5)
    method = InteractionCAM()
    object.__setattr__(method, "_reduce", lambda _: ones)
    torch.testing.assert_close(method(model, encoded, pairs), LayerCAM(relu=False)(model, encoded, pairs), **CLOSE)


def test_interacting_gradients_take_the_greatest_product_of_channels():
    g, h = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for k, best in enumerate(interact(g, h)[:, :, 0, 0].unbind(dim=1)):
        products = [(g[:, k] * h[:, j]).sum(dim=(1, 2)) for j in range(3)]
        torch.testing.assert_close(best, torch.stack(products).amax(dim=0), **CLOSE)
    with pytest.raises(UserError, match="one size"):
        interact(g, h[..., :3])


# Averaged transforms


def test_on_a_linear_embedding_averaged_transforms_see_the_mean_of_both_images():
    model, encoded, pairs = setting(trunk=lambda: nn.Conv2d(3, 4, 3, bias=False), similarity=Dot(), normalise=False)
    mean = (pairs.query + pairs.reference) / 2
    between = encode_pairs(model, Similarity(), pairs.query, mean)
    maps = AveragedTransforms(steps=4)(model, encoded, pairs)
    gradient = torch.autograd.functional.jacobian(
        lambda x: model.similarity(model(x), between.terms[0].side.embeddings.clone()).sum(), pairs.query
    )
    torch.testing.assert_close(maps, (pairs.query * gradient).abs().amax(dim=1), **CLOSE)


def test_averaged_transforms_by_their_definition():
    model, encoded, pairs = setting(head=LINEAR)
    total = torch.zeros_like(pairs.query)
    for share in (0.25, 0.5, 0.75):
        mixed = (1 - share) * pairs.query + share * pairs.reference
        x = pairs.query.clone().requires_grad_()
        total += torch.autograd.grad(model.similarity(model(x), model(mixed).detach()).sum(), x)[0] / 3
    maps = AveragedTransforms(steps=3)(model, encoded, pairs)
    torch.testing.assert_close(maps, (pairs.query * total).abs().amax(dim=1), **CLOSE)


# DAAM


def test_daam_without_a_head_is_fam():
    model, encoded, pairs = setting()
    torch.testing.assert_close(
        scaled(DAAM()(model, encoded, pairs)), scaled(FAM()(model, encoded, pairs)), rtol=1e-8, atol=1e-10
    )


def test_daam_behind_a_head_pulls_the_scaled_shares_back():
    model, encoded, pairs = setting(head=LINEAR)
    towards = contribution_weights(model, encoded)
    assert float(towards.min()) == 0
    assert float(towards.max()) == 1
    expected = torch.einsum("bd,dk,bkij->bij", towards, LINEAR.weight.double(), encoded.query.activations)
    torch.testing.assert_close(scaled(DAAM()(model, encoded, pairs)), scaled(expected.detach()), rtol=1e-8, atol=1e-10)


def test_equal_shares_all_count_one():
    model, encoded, _ = setting()
    flat = torch.ones_like(encoded.query.embeddings)
    side = replace(encoded.query, embeddings=flat)
    even = replace(encoded, query=side, terms=(Term(1.0, Reference.of(side)),))
    assert (contribution_weights(model, even) == 1).all()


@pytest.mark.parametrize("token", ["class", "patch"])
def test_the_last_block_of_daam_is_grad_eclip_with_plain_attention(token):
    model = tiny_transformer("dot", token, normalise=False).double()
    seen = transformer_pairs(model)
    towards = contribution_weights(model, seen)
    on_form = replace(seen, terms=(Term(1.0, Reference(towards)),))  # the dot product with c is <c, e>
    expected = maps_of(GradECLIP(spatial="attention"), model, on_form)
    found = maps_of(DAAM(blocks="last", scale="none"), model, seen)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_daam_sums_a_scaled_map_of_each_block():
    model = tiny_transformer("cosine", "class", depth=3).double()
    found = maps_of(DAAM(), model, transformer_pairs(model))
    assert 1 < found.max() <= 3
    assert found.min() >= 0


# Similarity attention


def test_similarity_attention_of_a_triplet_by_its_definition():
    model, encoded, pairs = setting(head=LINEAR, target="margin")
    a, p, n = (unit(side) for side in (encoded.query.embeddings, *(term.side.embeddings for term in encoded.terms)))
    leaf = encoded.query.activations.clone().requires_grad_()
    e = unit(LINEAR.double()(leaf.mean(dim=(2, 3))))
    for weights in ("differentiated", "constant"):
        held = e if weights == "differentiated" else a
        total = ((1 - (held - p).abs()) * (held - n).abs() * e).sum()
        (gradient,) = torch.autograd.grad(total, leaf, retain_graph=True)
        expected = torch.einsum("bk,bkij->bij", gradient.mean(dim=(2, 3)), encoded.query.activations)
        maps = SimilarityAttention(weights, relu=False)(model, encoded, pairs)
        torch.testing.assert_close(maps, expected, **CLOSE)


def test_a_negative_that_equals_the_query_has_no_similarity_attention():
    model, encoded, pairs = setting(head=LINEAR, target="margin")
    near, far = encoded.terms
    same = replace(encoded, terms=(near, replace(far, side=Reference.of(encoded.query))))
    assert SimilarityAttention("constant", relu=False)(model, same, pairs).abs().max() < 1e-12


def test_the_similarity_attention_of_an_image_with_itself_is_grad_cam_on_its_sum():
    model, encoded, pairs = setting(similarity=Dot(), normalise=False)
    itself = replace(encoded, terms=(Term(1.0, Reference.of(encoded.query)),))
    found = SimilarityAttention("constant", relu=False)(model, itself, pairs)
    ones = Reference(torch.ones_like(encoded.query.embeddings))
    expected = GradCAM(relu=False)(model, replace(encoded, terms=(Term(1.0, ones),)), pairs)
    torch.testing.assert_close(found, expected, **CLOSE)


# Finer-CAM


def bank(model, labels=(0, 0, 1, 1, 2)):
    images = torch.rand(len(labels), 3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Bank.of(model, images, torch.tensor(labels))


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()], ids=lambda s: s.name)
def test_finer_cam_without_alpha_is_grad_cam_and_with_one_class_that_of_a_margin(similarity):
    model, encoded, pairs = setting(head=LINEAR, similarity=similarity)
    known = bank(model)
    plain = FinerCAM(alpha=0.0, relu=False).prepare(model, known)(model, encoded, pairs)
    torch.testing.assert_close(plain, GradCAM(relu=False)(model, encoded, pairs), **CLOSE)
    one = FinerCAM(classes=1, relu=False).prepare(model, known)
    means = one.state["means"]
    query, reference = encoded.query.embeddings, encoded.terms[0].side.embeddings
    apart = (similarity.matrix(query, means) - similarity(query, reference)[:, None]).abs()
    nearest = replace(encoded.terms[0].side, embeddings=means[apart.argmin(dim=1)])
    margin = replace(encoded, terms=(*encoded.terms, Term(-1.0, nearest)))
    torch.testing.assert_close(one(model, encoded, pairs), GradCAM(relu=False)(model, margin, pairs), **CLOSE)


# gScoreCAM


def test_gscore_cam_on_all_channels_is_score_cam():
    model, encoded, pairs = setting(head=LINEAR)
    maps = [method(model, encoded, pairs) for method in (GScoreCAM(share=1.0), ScoreCAM(space="image"))]
    torch.testing.assert_close(*map(scaled, maps), **CLOSE)  # a channel of zeros has a share in Score-CAM's softmax


@pytest.mark.parametrize("varying", [0, 1])
def test_gscore_cam_does_not_fill_up_with_constant_channels(varying):
    model, encoded, pairs = setting(head=LINEAR)
    activations = torch.full_like(encoded.query.activations, 2.0)
    activations[:, :varying, 1, 1] = 3.0
    changed = replace(encoded, query=replace(encoded.query, activations=activations))
    maps = GScoreCAM(share=0.6)(model, changed, pairs)
    torch.testing.assert_close(maps, activations[:, 0] if varying else torch.zeros_like(maps), **CLOSE)


def test_gscore_cam_on_one_channel_is_that_channel():
    model, encoded, pairs = setting(head=LINEAR)
    activations = encoded.query.activations
    alive = activations.amax(dim=(2, 3)) > activations.amin(dim=(2, 3))
    best = torch.where(alive, target_gradient(model, encoded).mean(dim=(2, 3)), -torch.inf).argmax(dim=1)
    maps = GScoreCAM(share=0.2, relu=False)(model, encoded, pairs)
    torch.testing.assert_close(maps, activations[torch.arange(2), best], **CLOSE)
    assert GScoreCAM(share=0.2).forwards(encoded.query) == 1
    with pytest.raises(UserError, match="share is 0"):
        GScoreCAM(share=0)
