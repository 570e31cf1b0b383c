"""Cutting vision transformers among their tokens: the pieces make the whole, and what maps of tokens sum to."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.api import explain
from sfam_bench.core.errors import UserError
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import unit
from sfam_bench.core.targets import Similarity, score
from sfam_bench.engine.modes import eager
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.eigen_cam import EigenCAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import combine, target_gradient
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import backbone, load, save
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import encode_pairs
from sfam_bench.models.tokens import CARRY, PatchTail, cut_tokens, join, last_tokens, split_tokens
from tests.contract import pairs
from tests.transformers import BY_NAME, tiny_transformer, transformer

IMAGES = torch.rand(2, 3, 37, 51, generator=torch.Generator().manual_seed(1))
GRID = (5, 7)
VARIANTS = {
    "class and register": {},
    "class alone": {"registers": 0},
    "no prefix": {"registers": 0, "class_token": False},
    "norm before the blocks": {"pre_norm": True},
    "without a last norm": {"final_norm": False},
}


def cut(layer=None, token="patch", **options):
    trunk, tail = cut_tokens(transformer(**options), "tiny", layer, token)
    return trunk.eval(), (tail or nn.Identity()).eval()


def explained(method, model, batch=None):
    batch = batch or pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    return method(model, encoded, batch), score(model.similarity, encoded.query.embeddings, encoded.terms)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1"])
def test_patches_of_an_early_cut_become_those_of_the_last_block(layer, options):
    trunk, tail = cut(layer, **options)
    whole, _ = cut(**options)
    with torch.no_grad():
        expected = transformer(**options).forward_features(IMAGES)[:, -GRID[0] * GRID[1] :]
        grid = whole(IMAGES)
        torch.testing.assert_close(tail(trunk(IMAGES)), grid)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), expected)
    assert grid.shape == (2, 24, *GRID)


@pytest.mark.parametrize("options", [VARIANTS[name] for name in VARIANTS if name != "no prefix"])
@pytest.mark.parametrize("layer", [None, "blocks.0"])
def test_the_class_token_is_that_of_timm(layer, options):
    trunk, tail = cut(layer, "class", **options)
    with torch.no_grad():
        token = tail(trunk(IMAGES))
        torch.testing.assert_close(token[:, :, 0, 0], transformer(**options).forward_features(IMAGES)[:, 0])
    assert token.shape == (2, 24, 1, 1)
    assert torch.equal(GAP()(token), token[:, :, 0, 0])


def test_without_a_layer_the_patches_of_the_class_token_are_those_of_the_last_attention():
    trunk, _ = cut(None, "class")
    whole = transformer()
    with torch.no_grad():
        tokens = whole.blocks[2].norm1(last_tokens(whole, IMAGES, blocks=2))
        torch.testing.assert_close(trunk(IMAGES)[:, :24].flatten(2).transpose(1, 2), tokens[:, 2:])


def test_prefix_tokens_travel_as_constant_channels_and_arrive_as_they_left():
    tokens = torch.randn(2, 3 + 6, 4)
    grid = tokens[:, 3:].transpose(1, 2).unflatten(2, (2, 3))
    activations = join(grid, tokens[:, :3])
    assert activations.shape == (2, 4 * (1 + 3), 2, 3)
    assert torch.equal(activations[:, 4:8], (tokens[:, 0] * CARRY)[:, :, None, None].expand(-1, -1, 2, 3))
    torch.testing.assert_close(split_tokens(activations, 3), tokens)
    assert torch.equal(split_tokens(grid, 0), tokens[:, 3:])


@pytest.mark.parametrize(
    ("layer", "token", "behind"),
    [("blocks.1", "patch", ("blocks.2", "norm.")), (None, "class", ("blocks.2.[^n]", "blocks.2.norm2", "norm."))],
)
def test_every_weight_is_held_by_the_piece_that_uses_it(layer, token, behind):
    trunk, tail = cut(layer, token)
    whole = [key for key, _ in transformer().named_parameters()]
    later = [key for key in whole if any(re.match(start, key) for start in behind)]
    assert len(list(trunk.parameters())) == len(whole) - len(later)
    assert len(list(tail.parameters())) == len(later)
    assert not {id(weights) for weights in trunk.parameters()} & {id(weights) for weights in tail.parameters()}


@pytest.mark.parametrize("layer", [None, "blocks.0"])
def test_gradients_reach_prefix_tokens_through_the_cut(layer):
    trunk, tail = cut(layer, "class")
    tail(trunk(IMAGES)).square().sum().backward()
    assert all(weights.grad.abs().max() > 0 for weights in (*trunk.parameters(), *tail.parameters()))


# Maps of tokens


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_decomposition_of_pooled_patches_leaves_nothing_over(similarity):
    model = tiny_transformer(similarity).double()
    batch = pairs()
    doubles = PairBatch(batch.query_ids, batch.reference_ids, batch.query.double(), batch.reference.double())
    maps, scores = explained(SimilarityDecomposition(), model, doubles)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), scores)
    exact, _ = explained(SFAM(gamma=0.0), model, doubles)
    torch.testing.assert_close(exact, maps * GRID[0] * GRID[1])
    assert model.embedder.pools_the_cut
    assert model.encode(doubles.query).activations.min() < 0  # tokens are signed: shares of a channel can be negative


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_decomposition_of_the_class_token_leaves_a_residual(similarity):
    model = tiny_transformer(similarity, "class")
    maps, scores = explained(SimilarityDecomposition(), model)
    assert maps.isfinite().all()
    assert ((maps.sum(dim=(1, 2)) - scores).abs() > 0.02 * scores.abs()).all()
    assert not model.embedder.pools_the_cut


@pytest.mark.parametrize(("blocks", "token"), [(2, "class"), (3, "patch")])
def test_before_a_norm_a_derivative_times_its_activation_is_zero(blocks, token):
    """Why there is no cut: the norm does not see the length of its input, nor its mean."""
    whole = transformer().double()
    tail = PatchTail(whole.blocks[blocks:], whole.norm, 2, token)
    with torch.no_grad():
        tokens = last_tokens(whole, IMAGES.double(), blocks)
        activations = join(tokens[:, 2:].transpose(1, 2).unflatten(2, GRID), tokens[:, :2])
    leaf = activations.requires_grad_()
    (gradient,) = torch.autograd.grad(unit(GAP()(tail(leaf))).sum(), leaf)
    shares = (leaf * gradient)[:, :24]
    assert shares.sum(dim=1).abs().max() < 1e-5 * shares.abs().max()


@pytest.mark.parametrize("similarity", BY_NAME)
def test_the_share_of_prefix_tokens_is_the_same_at_every_position(similarity):
    model = tiny_transformer(similarity, "class")
    batch = pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    kept = encoded.query.activations[:, 24:]
    assert kept.amax(dim=(2, 3)).equal(kept.amin(dim=(2, 3)))
    with torch.enable_grad():
        leaf = encoded.query.activations.clone().requires_grad_()
        embeddings = model.embedder(leaf)
        (gradient,) = torch.autograd.grad(score(model.similarity, embeddings, encoded.terms).sum(), leaf)
    share = (leaf * gradient)[:, 24:].sum(dim=1)
    torch.testing.assert_close(share, share[:, :1, :1].expand_as(share), rtol=1e-4, atol=1e-6)
    assert share.abs().min() > 1e-5  # they do count


def only_patches(encoded):
    side = encoded.query
    return replace(encoded, query=replace(side, activations=side.activations[:, :24]))


@pytest.mark.parametrize(("method", "scale"), [(LaFAM(), 4), (EigenCAM(), 1)])
def test_methods_that_weigh_channels_by_strength_see_the_patches_alone(method, scale):
    model, batch = tiny_transformer("cosine", "class"), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    alone = method(model, only_patches(encoded), batch)
    maps = method(model, encoded, batch) * scale  # a mean over four times as many channels
    assert (maps - alone).abs().max() < 0.01 * alone.abs().max()


@pytest.mark.parametrize("similarity", BY_NAME)
def test_sfam_sees_the_patches_alone_and_grad_cam_is_shifted_by_a_constant(similarity):
    model, batch = tiny_transformer(similarity, "class"), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    activations = encoded.query.activations
    weights = SFAM().weights(model, encoded.query, encoded.terms[0].side)
    gradients = target_gradient(model, encoded).mean(dim=(2, 3))
    by_sfam, by_gradient = (combine(found[:, 24:], activations[:, 24:]) for found in (weights, gradients))
    assert by_sfam.abs().max() < 0.01 * SFAM()(model, encoded, batch).abs().max()
    assert by_gradient.abs().max() > 0.01 * GradCAM(relu=False)(model, encoded, batch).abs().max()
    torch.testing.assert_close(by_gradient, by_gradient[:, :1, :1].expand_as(by_gradient), rtol=1e-4, atol=1e-6)


# By name, and what cannot be had


def test_the_mean_and_std_are_those_of_the_weights_named():
    name = "vit_xsmall_patch16_clip_224"
    for tagged, mean in ((f"{name}.tinyclip_yfcc15m", 0.48145466), ("deit_tiny_patch16_224.fb_in1k", 0.485)):
        trunk, _ = trunk_and_tail("timm", tagged)
        assert trunk[0].mean.flatten()[0] == pytest.approx(mean)


def test_a_transformer_by_name_takes_sizes_that_its_patches_cover():
    trunk, tail = backbone("deit_tiny_distilled_patch16_224", token="class")
    with torch.no_grad():
        assert tail(trunk(torch.rand(1, 3, 32, 48))).shape == (1, 192, 1, 1)
        with pytest.raises(UserError, match="images of 37 x 51 px are not divisible into patches of 16 x 16: choose "):
            trunk(IMAGES)


def test_weights_go_into_both_pieces():
    state = {
        key: torch.full_like(value, 0.5)
        for key, value in trunk_and_tail("timm", "vit_tiny_patch16_224", token="patch")
        .trunk[1]
        .transformer.state_dict()
        .items()
    }
    trunk, tail = trunk_and_tail("timm", "vit_tiny_patch16_224", "blocks.7", state=state, token="patch")
    assert len(tail.blocks) == 4
    assert all((weights == 0.5).all() for weights in (*trunk.parameters(), *tail.parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (transformer(), "vit", "blocks.2", "patch"),
            "no cut at 'blocks.2' for its patch token: choose from blocks.0 to blocks.1",
        ),
        ((transformer(), "vit", "norm", "patch"), "vit has no cut at 'norm' .* blocks.0 to blocks.1, or null"),
        ((transformer(), "vit", "blocks.1", "class"), "vit has no cut at 'blocks.1' .* blocks.0 to blocks.0"),
        (
            (transformer(depth=1), "vit", None, "class"),
            "vit has blocks of another kind: name one as model.trunk.layer",
        ),
        ((transformer(depth=2), "vit", "blocks.0", "class"), "vit has no cut at .* for its class token: leave it null"),
        ((transformer(class_token=False), "vit", None, "class"), "vit has no class token: set model.trunk.token=patch"),
    ],
)
def test_a_cut_that_is_not_there_says_which_are(arguments, message):
    with pytest.raises(UserError, match=message):
        cut_tokens(*arguments)


@pytest.mark.parametrize(
    ("source", "name", "layer", "token", "message"),
    [
        ("torchvision", "swin_t", "features.3", "patch", "swin_t has no grid that can be pooled behind 'features.3'"),
        ("timm", "resnet10t", None, "class", "resnet10t has no class token that can be cut"),
    ],
)
def test_what_has_no_tokens_to_cut_says_so(source, name, layer, token, message):
    with pytest.raises(UserError, match=message):
        trunk_and_tail(source, name, layer, token=token)


# The rest of the benchmark


@pytest.mark.parametrize("token", ["patch", "class"])
def test_explain_and_passes_run_on_tokens(token):
    model = tiny_transformer("cosine", token)
    found = explain(model, IMAGES[0], IMAGES[1])
    assert not found.flags
    assert found.query_maps["sfam"].shape == (37, 51)
    torch.testing.assert_close(eager(model, IMAGES)(IMAGES), model(IMAGES).detach())


@pytest.mark.parametrize("token", ["patch", "class"])
def test_a_checkpoint_goes_round(token, tmp_path):
    model = tiny_transformer("cosine", token)
    save(model, tmp_path / "model.safetensors", {})
    again = tiny_transformer("cosine", token)
    for weights in again.parameters():
        weights.data.zero_()
    load(again, tmp_path / "model.safetensors")
    torch.testing.assert_close(again(IMAGES), model(IMAGES))
