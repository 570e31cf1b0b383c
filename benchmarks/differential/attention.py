"""Methods on attention beside loops on a vision transformer written out, and beside LeGrad's package."""

from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.settings import Setting
from benchmarks.differential.transformers import COLS, ROWS, WrittenOut, setting, transformer
from sfam_bench.core.maps import upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.attention_rollout import AttentionRollout
from sfam_bench.explainers.clip_surgery import CLIPSurgery
from sfam_bench.explainers.grad_eclip import GradECLIP
from sfam_bench.explainers.le_grad import LeGrad
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.models.tokens import Token, cut_tokens


def by_loops(
    explainer: Any, map_of: Callable[[WrittenOut, Tensor, int], Tensor], *settings: Setting
) -> Callable[[], Iterator[Sides]]:
    """Compare with `map_of(transformer, image, row)`, image by image."""

    def run() -> Iterator[Sides]:
        for found in settings or every():
            blocks: Any = transformer(_heads(found))
            written = WrittenOut(blocks, found)
            theirs = [map_of(written, image, row) for row, image in enumerate(found.pairs.query)]
            yield found.name, found.ours(explainer), torch.stack(theirs).view(-1, ROWS, COLS).detach()

    return run


def every() -> list[Setting]:
    """Both tokens, each similarity."""
    tokens: tuple[Token, ...] = ("patch", "class")
    return [setting(token, similarity) for token in tokens for similarity in (Cosine(), Dot(), NegativeEuclidean())]


def _heads(found: Setting) -> int:
    trunk: Any = found.model.trunk
    heads: int = trunk.transformer.blocks[0].attn.num_heads
    return heads


def rolled_out(written: WrittenOut, image: Tensor, row: int) -> Tensor:
    """Half of each token stays, half goes where the mean head looks, block by block."""
    reading = [0] if written.reads_class else range(2, 2 + ROWS * COLS)
    share = torch.zeros(2 + ROWS * COLS, dtype=torch.float64)
    share[list(reading)] = 1 / len(reading)
    for _, _, heads, weights in reversed(list(written.through(image))):  # from the embedding back to the patches
        before = 0.5 * share
        for weight in weights:
            for token, part in enumerate(share):
                before = before + 0.5 * part * weight[token] / len(heads)
        share = before
    return share[2:]


def le_grad(written: WrittenOut, image: Tensor, row: int) -> Tensor:
    """Each block anew from its attention on."""
    maps = []
    for block, tokens, heads, weights in written.through(image):
        leaf = weights.detach().requires_grad_()
        after = written.finish(block, tokens, written.outputs(leaf, heads))
        written.score(after, row).backward()
        assert leaf.grad is not None
        rising = leaf.grad.clamp(min=0)
        tokens_count = len(tokens)
        maps.append([sum(w[t, i] for w in rising for t in range(tokens_count)) for i in range(2, tokens_count)])
        scale = len(heads) * tokens_count
    return torch.tensor(maps, dtype=torch.float64).mean(dim=0) / scale


def grad_eclip(written: WrittenOut, image: Tensor, row: int, single: bool = False) -> Tensor:
    """Every token that reads against every patch, over the merged heads; `single` runs the last block on one head."""
    *_, (block, tokens, heads, weights) = written.through(image)
    if single:
        heads = written.heads(block, tokens, 1)
        weights = written.attend(heads)
    queries, keys, values = (torch.cat(parts, dim=1) for parts in zip(*heads, strict=True))
    output = written.outputs(weights, heads).detach().requires_grad_()
    written.score(written.finish(block, tokens, output), row).backward()
    assert output.grad is not None
    total = torch.zeros(ROWS * COLS, dtype=torch.float64)
    for token, weight in enumerate(output.grad):
        near = torch.stack([torch.cosine_similarity(queries[token], key, dim=0) for key in keys[2:]])
        near = (near - near.min()) / (near.max() - near.min())
        for patch, value in enumerate(values[2:]):
            total[patch] += near[patch] * (weight @ value)
    return total.clamp(min=0)


def package() -> Iterator[Sides]:
    """Their whole wrapper around a tiny CLIP, against timm's transformer with its weights; both between 0 and 1."""
    from timm.models.vision_transformer import _convert_openai_clip

    wrapper, open_clip = import_module("legrad.wrapper"), import_module("open_clip.model")
    torch.manual_seed(0)
    seeing = open_clip.CLIPVisionCfg(layers=3, width=32, head_width=16, patch_size=8, image_size=32, mlp_ratio=2)
    reading = open_clip.CLIPTextCfg(context_length=4, vocab_size=9, width=16, heads=2, layers=1)
    clip = open_clip.CLIP(16, seeing, reading).eval()
    for weights in clip.visual.parameters():
        nn.init.normal_(weights, std=weights.shape[-1] ** -0.5 if weights.ndim > 1 else 1)
    options: Any = {"pre_norm": True, "mlp_ratio": 2, "num_classes": 16, "norm_layer": partial(nn.LayerNorm, eps=1e-5)}
    ours = VisionTransformer(32, 8, embed_dim=32, depth=3, num_heads=2, global_pool="token", **options).eval()
    ours.load_state_dict(_convert_openai_clip(dict(clip.state_dict()), ours, "visual."))
    trunk, tail = cut_tokens(ours, "clip", None, "class")
    model = SimilarityModel(trunk, Embedder(GAP(), ours.head, tail, True), Cosine(), "clip").eval()
    query, reference = torch.rand(2, 2, 3, 32, 32)
    pairs = PairBatch(("a", "b"), ("c", "d"), query, reference)
    found = Setting("CLIP", model, pairs, encode_pairs(model, Similarity(), query, reference))
    for block in clip.visual.transformer.resblocks:
        block.attn.batch_first = False  # as it was in the open_clip that legrad asks for, whose blocks it feeds
    for count in (1, 2, 3):
        with redirect_stdout(StringIO()):
            wrapped: Any = wrapper.LeWrapper(clip, layer_index=-count)
        maps = [wrapped.compute_legrad_clip(r[None], i[None])[0] for i, r in zip(query, found.references, strict=True)]
        mine = found.ours(LeGrad(layers=count, reading="mean"))
        yield f"CLIP, last {count} of 3 layers", enlarged(mine, 32), torch.cat(maps).detach()


def enlarged(maps: RawMaps, side: int) -> RawMaps:
    """As their wrapper ends: bilinear, then from 0 to 1."""
    large = upsample(maps, (side, side))
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    return (large - low) / (high - low)


ONE_HEAD = (setting("class", Cosine(), 1), setting("class", Dot(), 1))
TWO_HEADS = (setting("class", Cosine(), 2), setting("class", Dot(), 2))


def surgery(written: WrittenOut, image: Tensor, row: int) -> Tensor:
    """Each patch by itself behind the value-to-value attention of the last two blocks, minus that of a grey image."""
    model, path = written.found.model, None
    for number, (block, tokens, heads, _) in enumerate(written.through(image)):
        if number < len(written.whole.blocks) - 2:
            continue
        outputs = []
        for _, _, values in heads:
            looks = [torch.softmax(value @ values.T / values.shape[1] ** 0.5, dim=0) for value in values]
            outputs.append(torch.stack(looks) @ values)
        added = torch.cat(outputs, dim=1) @ block.attn.proj.weight.T + block.attn.proj.bias
        path = added + (tokens if path is None else path)
    bare = model(image.mean(dim=(1, 2), keepdim=True).expand_as(image)[None])
    found = []
    for patch in written.whole.norm(path)[2:]:
        e = model.embedder.projection(patch)[None]
        e = e / e.norm()
        found.append(model.similarity(e, written.found.references[row : row + 1]) - model.similarity(e, bare))
    return torch.cat(found)


COMPARISONS = (
    Comparison("clip_surgery", "by definition", by_loops(CLIPSurgery(blocks=2), surgery)),
    Comparison("attention_rollout", "by definition", by_loops(AttentionRollout(), rolled_out)),
    Comparison("le_grad", "by definition", by_loops(LeGrad(), le_grad)),
    Comparison("le_grad", "legrad LeWrapper, reading=mean", package, package="legrad"),
    Comparison("grad_eclip", "by definition", by_loops(GradECLIP(), grad_eclip)),
    Comparison(
        "grad_eclip",
        "by definition, the last attention on one head as in the authors' code, one head",
        by_loops(GradECLIP(), partial(grad_eclip, single=True), *ONE_HEAD),
    ),
    Comparison(
        "grad_eclip",
        "by definition, the last attention on one head as in the authors' code, two heads",
        by_loops(GradECLIP(), partial(grad_eclip, single=True), *TWO_HEADS),
        cause="the authors' code gives the last attention a single head for every model, so it differentiates the "
        "score of another model; ours keeps the heads",
    ),
)
