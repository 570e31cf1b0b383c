"""LeGrad, Grad-ECLIP and attention rollout: identities in float64, by hand, and what they do to the model."""

import dataclasses
from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from torch.nn import functional as F

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.records import PairBatch, Reference, Term
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Margin, Similarity, comparisons, score, swap_sides
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.attention_rollout import AttentionRollout, mix_residual
from sfam_bench.explainers.clip_surgery import CLIPSurgery
from sfam_bench.explainers.daam import DAAM
from sfam_bench.explainers.grad_eclip import GradECLIP, to_unit_interval
from sfam_bench.explainers.le_grad import LeGrad
from sfam_bench.explainers.shared import attention as module
from sfam_bench.explainers.shared.attention import Layers, attend, has_tokens, layers_of, record_attention
from sfam_bench.explainers.shared.forms import differentiating
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.networks import Standardise
from sfam_bench.models.poolings import GAP, GMP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.models.splice import Before
from tests.transformers import BY_NAME, tiny_transformer, transformer

METHODS = [LeGrad(), GradECLIP(), AttentionRollout()]
READING = [("patch", None), ("patch", "blocks.0"), ("class", None), ("class", "blocks.0")]
BARE = {"registers": 0, "class_token": False}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
few = settings(max_examples=10, deadline=None)
any_model = given(
    reading=st.sampled_from(READING),
    similarity=st.sampled_from(sorted(BY_NAME)),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    seed=st.integers(0, 1000),
)


def encoded(model, rows=3, cols=4, seed=0, count=2, target=None):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(3, count, 3, 8 * rows - 3, 8 * cols, generator=draw).to(next(model.parameters()).dtype)
    return encode_pairs(model, target or Similarity(), *images)


def maps_of(method, model, seen):
    images = seen.query.images
    ids = tuple(map(str, range(len(images))))
    return method(model, seen, PairBatch(ids, ids, images, images))


# What attention is seen


@given(
    tokens=st.integers(1, 6),
    dims=st.integers(1, 5),
    mask=st.sampled_from(["none", "bool", "added"]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 1000),
)
@few
def test_attention_step_by_step_is_the_fused_one(tokens, dims, mask, scale, seed):
    torch.manual_seed(seed)
    queries, keys, values = torch.randn(3, 2, 3, tokens, dims, dtype=torch.float64)
    masks = {
        "none": None,
        "bool": torch.eye(tokens) + torch.rand(tokens, tokens) > 0.5,
        "added": torch.randn(1, tokens),
    }
    chosen = masks[mask].double() if mask == "added" else masks[mask]
    found = attend(queries, keys, values, attn_mask=chosen, scale=scale)
    torch.testing.assert_close(
        found.output, F.scaled_dot_product_attention(queries, keys, values, attn_mask=chosen, scale=scale), **CLOSE
    )
    torch.testing.assert_close(found.weights.sum(dim=-1), torch.ones(2, 3, tokens, dtype=torch.float64))


@pytest.mark.parametrize("option", [{"is_causal": True}, {"dropout_p": 0.1}, {"enable_gqa": True}])
def test_other_kinds_of_attention_are_refused(option):
    with pytest.raises(UserError, match="do not support dropout, causal attention or grouped heads"):
        attend(*torch.rand(3, 1, 1, 2, 2), **option)


@pytest.mark.parametrize("averaged", [True, False])
def test_multihead_attention_step_by_step_is_that_of_torch(averaged):
    torch.manual_seed(0)
    layer, tokens = nn.MultiheadAttention(8, 2, batch_first=True).double().eval(), torch.randn(3, 5, 8).double()
    expected = layer(tokens, tokens, tokens, average_attn_weights=averaged)
    with record_attention(layer) as seen:
        found = layer(tokens, tokens, tokens, average_attn_weights=averaged)
        assert layer(tokens, tokens, tokens, need_weights=False)[1] is None
    torch.testing.assert_close(found, expected, **CLOSE)
    assert [attention.weights.shape for attention in seen] == [(3, 2, 5, 5)] * 2


@pytest.mark.parametrize(
    "options", [{"kdim": 8, "vdim": 4}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"mask": torch.zeros(5, 5)}]
)
def test_other_kinds_of_multihead_attention_are_refused(options):
    mask, tokens = options.pop("mask", None), torch.randn(3, 5, 8)
    layer = nn.MultiheadAttention(8, 2, batch_first=True, **options).eval()
    value = tokens[..., : options.get("vdim", 8)]
    with record_attention(layer), pytest.raises(UserError, match=r"do not support nn\.MultiheadAttention with masks"):
        layer(tokens, tokens, value, attn_mask=mask)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_seen_whether_it_is_fused_or_not(fused):
    whole = transformer()
    for block in whole.blocks:
        block.attn.fused_attn = fused
    images = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        expected = whole(images)
        with record_attention(whole) as seen:
            torch.testing.assert_close(whole(images), expected)
        whole(images)
    assert [attention.weights.shape for attention in seen] == [(2, 2, 37, 37)] * 3
    assert all(block.attn.fused_attn is fused for block in whole.blocks)


def test_a_block_that_fails_leaves_attention_as_it_was():
    whole = transformer()
    whole.blocks[0].attn.fused_attn = False
    with pytest.raises(ZeroDivisionError), record_attention(whole) as seen:
        raise ZeroDivisionError
    assert whole.blocks[0].attn.fused_attn is False
    F.scaled_dot_product_attention(*torch.rand(3, 1, 1, 2, 2))
    assert not seen


@any_model
@few
def test_block_by_block_is_the_model(reading, similarity, rows, cols, seed):
    model = tiny_transformer(similarity, *reading, head=nn.Linear(24, 5)).double()
    seen = encoded(model, rows, cols, seed)
    layers = Layers(model, "it")
    with torch.no_grad():
        *_, (tokens, _) = layers.run(seen.query.images)
        torch.testing.assert_close(layers.embed(tokens, (rows, cols)), seen.query.embeddings, **CLOSE)
    assert len(layers.steps) == 3


# Identities


@pytest.mark.parametrize("method", METHODS)
@any_model
@few
def test_where_the_model_is_cut_does_not_matter(method, reading, similarity, rows, cols, seed):
    token = reading[0]
    whole, early = (tiny_transformer(similarity, token, cut).double() for cut in (None, "blocks.0"))
    found = maps_of(method, whole, encoded(whole, rows, cols, seed))
    torch.testing.assert_close(maps_of(method, early, encoded(early, rows, cols, seed)), found, **CLOSE)
    assert found.shape == (2, rows, cols)
    assert found.min() >= 0


@pytest.mark.parametrize("method", [LeGrad(), LeGrad(reading="mean"), GradECLIP(relu=False)])
@pytest.mark.parametrize("token", ["patch", "class"])
def test_both_sides_are_the_swapped_pair(method, token):
    model = tiny_transformer("dot", token).double()
    seen = encoded(model)
    turned = replace(seen, query=seen.terms[0].side.side_for("it"), terms=(Term(1.0, Reference.of(seen.query)),))
    torch.testing.assert_close(maps_of(method, model, swap_sides(seen)), maps_of(method, model, turned), **CLOSE)
    assert not torch.allclose(maps_of(method, model, swap_sides(seen)), maps_of(method, model, seen))


@pytest.mark.parametrize("token", ["patch", "class"])
def test_the_margin_of_unrectified_grad_eclip_is_the_difference_of_both(token):
    model = tiny_transformer("cosine", token).double()
    seen = encoded(model, target=Margin())
    parts = [replace(seen, terms=(Term(1.0, term.side),)) for term in seen.terms]
    method = GradECLIP(relu=False)
    positive, negative = (maps_of(method, model, part) for part in parts)
    torch.testing.assert_close(maps_of(method, model, seen), positive - negative, **CLOSE)


def test_the_margin_of_le_grad_rectifies_after_the_difference():
    model = tiny_transformer("cosine", "class").double()
    seen = encoded(model, target=Margin())
    same = replace(seen, terms=(seen.terms[0], Term(-1.0, seen.terms[0].side)))
    assert maps_of(LeGrad(), model, same).abs().max() < 1e-15
    assert maps_of(LeGrad(), model, seen).abs().max() > 1e-6


@any_model
@few
def test_over_n_layers_le_grad_is_the_mean_of_single_ones(reading, similarity, rows, cols, seed):
    model = tiny_transformer(similarity, *reading).double()
    seen, layers = encoded(model, rows, cols, seed), Layers(model, "it")
    single = []
    with differentiating(model):
        for tokens, attention in layers.run(seen.query.images):
            total = score(model.similarity, layers.embed(tokens, (rows, cols)), seen.terms).sum()
            (gradient,) = torch.autograd.grad(total, attention.weights)
            single.append(gradient.clamp(min=0).mean(dim=(1, 2))[:, 2:].view(2, rows, cols))
    for count in (1, 2, 3):
        expected = sum(single[-count:]) / count
        torch.testing.assert_close(maps_of(LeGrad(layers=count), model, seen), expected, **CLOSE)
    assert maps_of(LeGrad(layers=9), model, seen).equal(maps_of(LeGrad(), model, seen))


@pytest.mark.parametrize("similarity", BY_NAME)
@pytest.mark.parametrize("pooling", [GAP, GMP])
def test_with_spatial_attention_grad_eclip_splits_the_first_order_term(similarity, pooling):
    model = tiny_transformer(similarity, pooling=pooling(), **BARE).double()
    seen = encoded(model)
    maps = maps_of(GradECLIP(spatial="attention", relu=False), model, seen)
    layers = Layers(model, "it")
    with differentiating(model):
        *_, (tokens, attention) = layers.run(seen.query.images)
        total = score(model.similarity, layers.embed(tokens, (3, 4)), seen.terms).sum()
        (gradient,) = torch.autograd.grad(total, attention.output)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), (gradient * attention.output).sum(dim=(1, 2, 3)), **CLOSE)


@pytest.mark.parametrize("token", ["patch", "class"])
def test_with_one_head_merged_and_each_are_the_same(token):
    for heads in (1, 2):
        model = tiny_transformer("cosine", token, num_heads=heads).double()
        seen = encoded(model)
        merged, each = (maps_of(GradECLIP(heads=choice), model, seen) for choice in ("merged", "each"))
        assert torch.allclose(merged, each) == (heads == 1)


def test_loosened_attention_lies_between_zero_and_one_and_is_one_where_all_are_alike():
    assert to_unit_interval(torch.tensor([[0.5, -0.5, 0.0], [0.3, 0.3, 0.3]])).tolist() == [[1, 0, 0.5], [1, 1, 1]]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@any_model
@few
def test_without_prefix_tokens_a_rollout_sums_to_one(fusion, reading, similarity, rows, cols, seed):
    model = tiny_transformer(similarity, **BARE).double()
    maps = maps_of(AttentionRollout(fusion=fusion), model, encoded(model, rows, cols, seed))
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("token", ["patch", "class"])
def test_uniform_attention_rolls_out_to_a_constant_map(token):
    model = tiny_transformer("cosine", token).double()
    for weights in model.parameters():
        if weights.shape[0] == 3 * 24:  # queries, keys and values
            weights.data[: 2 * 24] = 0
    maps = maps_of(AttentionRollout(), model, encoded(model))
    torch.testing.assert_close(maps, maps[:, :1, :1].expand_as(maps), **CLOSE)


def test_mixed_attention_by_hand():
    fused = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    assert mix_residual(fused).tolist() == [[[0.75, 0.25], [0.5, 0.5]]]
    assert mix_residual(fused / 2)[0, 0].tolist() == pytest.approx([1.25 / 1.5, 0.25 / 1.5])


def test_heads_are_fused_as_named():
    model = tiny_transformer("cosine", "class").double()
    seen = encoded(model)
    with torch.no_grad():
        weights = [attention.weights for _, attention in Layers(model, "it").run(seen.query.images)]
    for fusion, fuse in (("mean", torch.mean), ("max", torch.amax), ("min", torch.amin)):
        one, two, three = (mix_residual(fuse(weight, dim=1)) for weight in weights)
        expected = (three @ two @ one)[:, 0, 2:].view(2, 3, 4)
        torch.testing.assert_close(maps_of(AttentionRollout(fusion=fusion), model, seen), expected, **CLOSE)


# Models, memory, bad input


def test_a_field_says_how_the_tokens_of_a_layer_are_read():
    model = tiny_transformer("cosine", "class").double()
    seen = encoded(model)
    by_model, by_mean = (maps_of(LeGrad(layers=1, reading=reading), model, seen) for reading in ("model", "mean"))
    assert not torch.allclose(by_model, by_mean, rtol=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("token", ["patch", "class"])
def test_chunks_make_the_whole_and_unfused_attention_the_same_map(method, token, monkeypatch):
    model = tiny_transformer("cosine", token).double()
    seen = encoded(model, count=5)
    expected = maps_of(method, model, seen)
    for child in model.modules():
        if hasattr(child, "fused_attn"):
            child.fused_attn = False
    torch.testing.assert_close(maps_of(method, model, seen), expected, **CLOSE)
    monkeypatch.setattr(module, "MEMORY", 2 * 14**2 * 24 // 4 + 1)  # two images at a time
    torch.testing.assert_close(maps_of(method, model, seen), expected, **CLOSE)
    assert [len(rows) for rows in Layers(model, "it").chunks(seen.query.images, (3, 4))] == [2, 2, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options", [{"qk_norm": True}, {"init_values": 0.5}, {"pre_norm": True}, {"final_norm": False}]
)
def test_variants_of_timm_are_explained(method, options):
    model = tiny_transformer("cosine", "class", **options).double()
    maps = maps_of(method, model, encoded(model))
    assert maps.isfinite().all()
    assert maps.amax() > maps.amin()


@pytest.mark.parametrize("method", [*METHODS, DAAM()])
@pytest.mark.parametrize(("token", "pool"), [("class", "token"), ("patch", "avg")])
def test_a_transformer_run_in_parts_has_the_same_maps_as_its_blocks(method, token, pool):
    """Any transformer is explained through the module itself; timm's VisionTransformer in both ways."""
    whole = transformer(global_pool=pool, fc_norm=False)
    spliced = SimilarityModel.wrap(whole, standardise=Standardise(), image_size=56)
    ours = tiny_transformer("cosine", token)
    images = torch.rand(2, 2, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    assert isinstance(spliced.trunk[1], Before)
    found, expected = (maps_of(method, model, encode_pairs(model, Similarity(), *images)) for model in (spliced, ours))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def torchvision_vit():
    torch.manual_seed(0)
    made = torchvision.models.VisionTransformer(48, 8, 3, 2, 24, 48)
    made.heads = nn.Identity()
    return made


class Encoder(nn.Module):
    """A transformer of torch's own layers, whose class token is the embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.token = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(24)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        return self.norm(self.encoder(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)))[:, 0]


@pytest.mark.parametrize("network", [torchvision_vit, Encoder])
def test_blocks_with_any_names_and_multihead_attention_are_explained(network):
    model = SimilarityModel.wrap(network(), standardise=Standardise(), image_size=48).double().eval()
    images = torch.rand(2, 2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    seen, layers = encode_pairs(model, Similarity(), *images), layers_of(model, "it")
    with torch.no_grad():
        *_, (tokens, _) = layers.run(seen.query.images)
        torch.testing.assert_close(layers.embed(tokens, (6, 6)), seen.query.embeddings, **CLOSE)
    assert len(layers.steps) == 3
    for method in (*METHODS, DAAM()):
        maps = maps_of(method, model, seen)
        assert maps.isfinite().all()
        assert maps.amax() > maps.amin()
    with pytest.raises(UserError, match=r"CLIP Surgery reads parts .* not known of a wrapped .* \(model=vit, or"):
        maps_of(CLIPSurgery(), model, seen)


def test_daam_refuses_tokens_without_attention():
    mixer = MlpMixer(num_classes=0, img_size=64, patch_size=16, embed_dim=24, num_blocks=3)
    model = SimilarityModel.wrap(mixer, image_size=64)
    assert has_tokens(model)
    seen = encode_pairs(model, Similarity(), *torch.rand(2, 1, 3, 64, 64))
    with pytest.raises(
        UserError, match="DAAM needs one attention over all tokens in each of 3 blocks, and 0 are known"
    ):
        maps_of(DAAM(), model, seen)


def refuses(method, model, message):
    side = encoded(tiny_transformer("cosine"))
    with pytest.raises(UserError, match=message):
        maps_of(method, model, replace(side, passes=Passes(model)))


@pytest.mark.parametrize("method", METHODS)
def test_networks_without_attention_of_that_kind_are_refused(method):
    plain = SimilarityModel(nn.Conv2d(3, 4, 8, 8), Embedder(GAP()), Cosine())
    parallel = tiny_transformer("cosine", "patch")
    parallel.trunk[1].transformer.blocks[1] = TwoAttentions(*parallel.trunk[1].transformer.blocks[1:])
    refuses(method, plain, r"needs a vision transformer: timm's vit_\* or deit\*")
    refuses(method, parallel, "needs one attention over all tokens in each block, but TwoAttentions has 2")


@pytest.mark.slow
def test_a_network_with_attention_in_windows_is_refused():
    small = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4)}
    trunk = trunk_and_tail("timm", "swin_tiny_patch4_window7_224", options=small).trunk
    swin = SimilarityModel(trunk, Embedder(GAP()), Cosine())
    for method in METHODS:
        refuses(method, swin, "needs a transformer with attention over all tokens in each block")


class TwoAttentions(nn.Sequential):
    """Two blocks that pass for one."""


def test_no_layers_are_refused():
    with pytest.raises(UserError, match=r"LeGrad\.layers is 0: expected a number of at least 1"):
        LeGrad(layers=0)


@pytest.mark.parametrize("method", METHODS)
def test_cards_name_source_and_every_field(method):
    formula, source = formula_and_source(type(method))
    assert formula
    assert "20" in source
    assert set(field_notes(type(method))) == {field.name for field in dataclasses.fields(method)}
    assert method.card.needs == "attention"


# CLIP Surgery


@pytest.mark.parametrize(("token", "layer"), READING)
def test_clip_surgery_by_its_definition_block_by_block(token, layer):
    model = tiny_transformer("cosine", token, layer, depth=3).double()
    seen = encoded(model)
    vit = transformer(depth=3).double()
    grid = model.trunk[1].transformer.num_prefix_tokens
    image = model.trunk[0](seen.query.images)
    tokens = vit.patch_embed(image)
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(tokens)))
    path = None
    for number, block in enumerate(vit.blocks):
        if number >= 1:
            normed = block.norm1(tokens)
            both, count, width = normed.shape
            values = block.attn.qkv(normed).reshape(both, count, 3, 2, width // 2)[:, :, 2]
            heads = []
            for h in range(2):
                v = values[:, :, h]
                heads.append(torch.softmax(v @ v.transpose(1, 2) / v.shape[-1] ** 0.5, dim=-1) @ v)
            added = block.attn.proj(torch.cat(heads, dim=-1))
            path = added + (tokens if path is None else path)
        tokens = block(tokens)
    patches = vit.norm(path)[:, grid:]
    reference = seen.terms[0].side.embeddings
    expected = torch.einsum("bnd,bd->bn", F.normalize(patches, dim=-1), reference)
    found = maps_of(CLIPSurgery(blocks=2, redundant=None), model, seen)
    torch.testing.assert_close(found.flatten(1), expected.detach(), **CLOSE)
    bare = model(seen.query.images.mean(dim=(2, 3), keepdim=True).expand_as(seen.query.images))
    less = torch.einsum("bnd,bd->bn", F.normalize(patches, dim=-1), reference - bare)
    torch.testing.assert_close(maps_of(CLIPSurgery(blocks=2), model, seen).flatten(1), less.detach(), **CLOSE)


def test_where_attention_adds_nothing_clip_surgery_scores_the_patches_before():
    model = tiny_transformer("dot", depth=3, normalise=False).double()
    blocks = model.trunk[1].transformer.blocks
    for block in blocks[1:]:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
        nn.init.zeros_(block.mlp.fc2.weight)
        nn.init.zeros_(block.mlp.fc2.bias)
    seen = encoded(model)  # so that the cut holds the patches behind the first block
    expected = torch.einsum("bkij,bk->bij", seen.query.activations, seen.terms[0].side.embeddings)
    for count in (1, 2, 6):
        found = maps_of(CLIPSurgery(blocks=count, redundant=None), model, seen)
        torch.testing.assert_close(found, expected, **CLOSE)


def test_the_clip_surgery_of_a_margin_is_the_difference():
    model = tiny_transformer().double()
    seen = encoded(model, target=Margin())
    near, far = (replace(seen, terms=(replace(term, sign=1.0),)) for term in seen.terms)
    for redundant in (None, "mean_colour"):
        method = CLIPSurgery(redundant=redundant)
        one, other = (maps_of(method, model, side) for side in (near, far))
        torch.testing.assert_close(maps_of(method, model, seen), one - other, **CLOSE)


def test_the_clip_surgery_of_a_class_score_weighs_its_rivals():
    model = tiny_transformer().double()
    seen = encoded(model)
    (term,) = seen.terms
    others = replace(term.side, embeddings=-term.side.embeddings.flip(0))
    scored = replace(seen, terms=(replace(term, rivals=(others,), temperature=0.5),))
    slopes = [slope for slope, _ in comparisons(model.similarity, seen.query.embeddings, scored.terms)]
    each = [
        maps_of(CLIPSurgery(), model, replace(seen, terms=(replace(term, side=one),))) for one in (term.side, others)
    ]
    expected = sum(slope[:, :, None] * maps for slope, maps in zip(slopes, each, strict=True))
    torch.testing.assert_close(maps_of(CLIPSurgery(), model, scored), expected, **CLOSE)


def test_clip_surgery_needs_two_blocks():
    model = tiny_transformer(depth=1)
    with pytest.raises(UserError, match="two blocks"):
        maps_of(CLIPSurgery(), model, encoded(model))
