"""Vision transformers run block by block, with the attention of each block recorded; without hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import record_calls, run_part
from sfam_bench.core.records import Encoded
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Embeddings, Images, RawMaps
from sfam_bench.models.factors import FromPooled, Unnormalised
from sfam_bench.models.outputs import WithoutL2
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.splice import Before, Form, outermost, shapes_of, zeros
from sfam_bench.models.tokens import CarriedTokens, ClassTail, PatchTail, PatchTokens, Tokens, last_tokens, select

Rows: TypeAlias = Int[Tensor, " some"]  # of a batch

MEMORY = 2**28  # bytes of attention at once


@dataclass(frozen=True)
class Attention:
    """The attention of one block, by head: softmax(q k) = weights, weights v = output; all of them differentiable."""

    queries: Float[Tensor, "batch heads tokens dims"]
    keys: Float[Tensor, "batch heads tokens dims"]
    values: Float[Tensor, "batch heads tokens dims"]
    weights: Float[Tensor, "batch heads tokens tokens"]
    output: Float[Tensor, "batch heads tokens dims"]


class _AttentionRecorder(TorchFunctionMode):
    """While active, computes fused and nn.MultiheadAttention by its definition and appends it to `recorded`."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[Attention] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.multi_head_attention_forward:
            attention, output = attend_multihead(*args, **(kwargs or {}))
            self.recorded.append(attention)
            return output
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.recorded.append(attend(*args, **(kwargs or {})))
        return self.recorded[-1].output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attention:
    """F.scaled_dot_product_attention by its definition, without dropout, causal masks and grouped heads."""
    if dropout_p or is_causal or enable_gqa:
        raise UserError("methods on attention do not support dropout, causal attention or grouped heads")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(dim=-1)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_()  # where all weights before it are frozen
    return Attention(query, key, value, weights, weights @ value)


def attend_multihead(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *more: Any,  # further keys and values, dropout, and the last layer
    need_weights: bool = True,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    training: bool = True,
    **options: Any,
) -> tuple[Attention, tuple[Tensor, Tensor | None]]:
    """F.multi_head_attention_forward by its definition, without masks and with keys and values of the tokens' width."""
    *extra, dropout, out_weight, out_bias = more
    unsupported = (*extra, *options.values())
    if weight is None or query.ndim != 3 or any(one is not None and one is not False for one in unsupported):
        raise UserError(
            "methods on attention do not support nn.MultiheadAttention with masks, or with further keys and values or "
            "ones of another width"
        )
    layers = zip((query, key, value), weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3), strict=True)
    queries, keys, values = (F.linear(*layer).unflatten(2, (heads, -1)).permute(1, 2, 0, 3) for layer in layers)
    attention = attend(queries, keys, values, dropout_p=dropout if training else 0.0, is_causal=is_causal)
    output = F.linear(attention.output.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias)
    weights = attention.weights.mean(dim=1) if average_attn_weights else attention.weights
    return attention, (output, weights if need_weights else None)


@contextmanager
def record_attention(module: nn.Module) -> Iterator[list[Attention]]:
    """Record every attention of a module while the block runs, whether timm's fused attention is on or off."""
    unfused = [child for child in module.modules() if getattr(child, "fused_attn", True) is False]
    try:
        for child in unfused:
            child.fused_attn = True  # type: ignore[assignment]
        with _AttentionRecorder() as recorder:
            yield recorder.recorded
    finally:
        for child in unfused:
            child.fused_attn = False  # type: ignore[assignment]


@dataclass(frozen=True)
class Layers:
    """The blocks of a vision transformer of timm, in trunk and tail; `name` is the method's, for errors."""

    model: SimilarityModel
    name: str

    def __post_init__(self) -> None:
        found = self._trunk[-1]
        if isinstance(found, Before):
            raise UserError(
                f"{self.name} reads parts of the blocks of timm's VisionTransformer, which are not known of a wrapped "
                f"{type(found.uncut).__name__}: choose it by name (model=vit, or models.build.backbone), or use "
                "LeGrad, Grad-ECLIP or attention rollout"
            )
        if not (isinstance(found, PatchTokens | CarriedTokens) and isinstance(found.transformer, VisionTransformer)):
            raise UserError(f"{self.name} needs a vision transformer: timm's vit_* or deit* (model=vit)")

    @property
    def _trunk(self) -> list[nn.Module]:
        trunk = self.model.trunk
        return list(trunk) if isinstance(trunk, nn.Sequential) else [trunk]

    @property
    def _transformer(self) -> VisionTransformer:
        transformer: Any = self._trunk[-1].transformer
        return transformer

    @property
    def _tail(self) -> PatchTail | ClassTail | None:
        tail = self.model.embedder.tail
        return tail if isinstance(tail, PatchTail | ClassTail) else None

    @property
    def steps(self) -> list[tuple[nn.Module, Callable[[Tensor], Tokens]]]:
        """Each block of trunk and tail, and the function that runs it; the first one reads images."""
        before: Any = self._transformer.blocks
        steps: list[Any] = [(block, block) for block in before]
        steps[0] = (before[0], lambda images: last_tokens(self._transformer, images, blocks=1))
        if isinstance(self._tail, ClassTail):
            tail, norm = self._tail, cast(nn.Module, self._transformer.norm)
            steps.append((tail, lambda tokens: tail.block(tokens, norm(tokens))))
        elif self._tail is not None:
            steps += [(block, block) for block in cast(nn.Sequential, self._tail.blocks)]
        return steps

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return self._transformer.num_prefix_tokens

    @property
    def reads_class(self) -> bool:
        """Whether the embedding is the class token."""
        return self._tail is not None and self._tail.token == "class"

    def explain(self, encoded: Encoded, make: Callable[["Layers", Encoded, Rows, tuple[int, int]], RawMaps]) -> RawMaps:
        """The maps of a batch, by `make(layers, encoded, rows, size)` for a few rows at a time."""
        rows, cols = encoded.query.activations.shape[-2:]
        chunks = self.chunks(encoded.query.images, (rows, cols))
        return torch.cat([make(self, encoded, chunk, (rows, cols)) for chunk in chunks])

    @property
    def width(self) -> int:
        """The number of channels of a token."""
        width: int = self._transformer.embed_dim
        return width

    def chunks(self, images: Images, size: tuple[int, int]) -> Iterator[Rows]:
        """Rows whose attention in one block, with heads of 64 channels and some copies, fits into MEMORY."""
        tokens = self.prefix + size[0] * size[1]
        step = max(1, 4 * MEMORY // (tokens**2 * self.width))
        yield from torch.arange(len(images), device=images.device).split(step)

    def run(self, images: Images) -> Iterator[tuple[Tokens, Attention]]:
        """The tokens after each block and its attention; gradients flow back through one block only."""
        for step in self._trunk[:-1]:
            images = step(images)
        tokens = images
        for block, run in self.steps:
            with record_attention(block) as recorded:
                tokens = run(tokens.detach())
            yield tokens, self.check(block, tokens, recorded)

    def check(self, block: nn.Module, tokens: Tokens, recorded: list[Attention]) -> Attention:
        """The attention recorded in a block; UserError where there is not exactly one over all tokens."""
        if len(recorded) != 1 or recorded[0].weights.shape[::3] != tokens.shape[:2]:
            raise UserError(
                f"{self.name} needs one attention over all tokens in each block, but {type(block).__name__} has "
                f"{len(recorded)}{' over others' if len(recorded) == 1 else ''}: use another transformer, such as "
                "timm's vit_* or deit*"
            )
        return recorded[0]

    def apply_norm(self, tokens: Float[Tensor, "*some width"]) -> Float[Tensor, "*some width"]:
        """The norm after the last block."""
        norm: Any = self._transformer.norm if self._tail is None else self._tail.norm
        normalised: Tensor = norm(tokens)
        return normalised

    def embed(self, tokens: Tokens, size: tuple[int, int]) -> Embeddings:
        """The embeddings of these tokens in place of those after the last block."""
        grid = select(self.apply_norm(tokens), self.prefix, "class" if self.reads_class else "patch", size)
        return self.finish(self.model.embedder.pooling(grid.clone()))

    def finish(self, pooled: Float[Tensor, "batch channels"]) -> Embeddings:
        """Apply neck, head and L2."""
        embeddings = self.model.embedder.project(pooled)
        return unit(embeddings) if self.model.embedder.normalise else embeddings

    def patches(self, by_token: Float[Tensor, "batch tokens"], size: tuple[int, int]) -> RawMaps:
        """The values of the patches, as a grid."""
        return by_token[:, self.prefix :].unflatten(1, size)


class SplicedLayers(Layers):
    """The blocks of any other transformer that is run in parts: each is run from the tokens of the block before it.

    The tokens of a block take the place of those of the last one, and the network's own norm, pooling and projection
    follow.
    """

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError(
                f"{self.name} needs a transformer with attention over all tokens in each block, and "
                f"{type(self.network).__name__} has no sequence of such blocks: use another, such as timm's "
                "vit_* or deit*"
            )
        if not self.model.embedding.startswith("own"):
            raise UserError(f"{self.name} needs the network's own embedding here: leave pooling and embedding as own")

    @property
    def before(self) -> Before:
        """The trunk behind the standardisation of pixels."""
        found: Any = self._trunk[-1]
        return cast(Before, found)

    @property
    def network(self) -> nn.Module:
        """The whole network."""
        return self.before.uncut

    @property
    def names(self) -> list[str]:
        """Names of the blocks: the longest list of modules of one class, where tokens are what the trunk returns."""
        if self.before.place.layout.kind != "tokens":
            return []
        lists = {
            name: dict(child.named_children())
            for name, child in self.network.named_modules()
            if isinstance(child, nn.ModuleList | nn.Sequential)
        }
        equal = {name: blocks for name, blocks in lists.items() if len({*map(type, blocks.values())}) == 1}
        name = max(equal, key=lambda one: len(equal[one]), default=None)
        return [] if name is None else [f"{name}.{block}" for block in equal[name]]

    @property
    def steps(self) -> list[Any]:
        """One for each block."""
        return [*self.names]

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return self.before.place.layout.prefix

    @property
    def reads_class(self) -> bool:
        """Whether the embedding is read from prefix tokens."""
        return self.before.place.norm is not None

    @property
    def width(self) -> int:
        """The number of channels of a token."""
        return max(weights.shape[-1] for weights in self.network.parameters() if weights.ndim == 1)

    def run(self, images: Images) -> Iterator[tuple[Tokens, Attention]]:
        """The tokens after each block and its attention; gradients flow back through one block only."""
        for step in self._trunk[:-1]:
            images = step(images)
        last: str | None = None
        values: list[tuple[nn.Module, Any]] = []
        for name in self.names:
            block = self.network.get_submodule(name)
            earlier = self.earlier(images, last)
            with record_attention(block) as recorded:
                try:
                    (output,) = run_part(self.network, images, [block], values, earlier)
                except LookupError as error:
                    raise UserError(
                        f"{self.name}: the blocks of {type(self.network).__name__} run in no order"
                    ) from error
            self.form[self.names[-1]], tokens = Form.of(output)
            last, values = name, [(block, self.form[self.names[-1]].fill(tokens.detach()))]
            yield tokens, self.check(block, tokens, recorded)

    def embed(self, tokens: Tokens, size: tuple[int, int]) -> Embeddings:
        """The embeddings of these tokens in place of those after the last block."""
        name, embedder = self.names[-1], self.model.embedder
        grey = tokens.new_full((len(tokens), 3, *self.before.seen.sizes[size]), 0.5)
        values = [(self.network.get_submodule(name), self.form[name].fill(tokens))]
        bare = any(isinstance(part, Unnormalised) for part in embedder.modules())
        with WithoutL2() if bare else nullcontext():
            own = self.before.read(run_part(self.network, grey, (), values, self.earlier(grey, name)))
        head = embedder.projection
        if isinstance(head, FromPooled):
            return unit(own) if embedder.normalise else own
        if isinstance(head, nn.Sequential) and isinstance(head[0], FromPooled):
            head = head[1:]
        embeddings: Embeddings = head(own)
        return unit(embeddings) if embedder.normalise else embeddings

    @cached_property
    def form(self) -> dict[str, Form]:
        """The form of the output of the blocks, by the name of the last one."""
        return {}

    @cached_property
    def calls(self) -> dict[int, list[tuple[str, Any]]]:
        """The calls of all modules with the shapes of their outputs, by size of the batch."""
        return {}

    def earlier(self, images: Images, layer: str | None) -> dict[nn.Module, list[Any]]:
        """Zeros in place of the outputs of modules that run before a block; nothing without a block."""
        if layer is None:
            return {}
        if len(images) not in self.calls:
            with torch.no_grad(), record_calls(self.network) as calls:
                self.network(images)
            self.calls[len(images)] = [(name, shapes_of(output)) for name, output in calls]
        known = outermost(self.calls[len(images)], layer)
        return {self.network.get_submodule(name): [zeros(one, images) for one in made] for name, made in known.items()}

    def apply_norm(self, tokens: Float[Tensor, "*some width"]) -> Float[Tensor, "*some width"]:
        """Not known of other transformers than timm's VisionTransformer."""
        raise UserError(
            f"{self.name} reads the mean of all tokens of timm's VisionTransformer alone: set reading=model"
        )


def layers_of(model: SimilarityModel, name: str) -> Layers:
    """The blocks of a transformer; `name` is the method's, for errors."""
    return SplicedLayers(model, name) if isinstance(_last(model.trunk), Before) else Layers(model, name)


def has_tokens(model: SimilarityModel) -> bool:
    """Whether the activations are tokens, perhaps with prefix tokens as channels, and not a grid of the network."""
    last = _last(model.trunk)
    tokens = isinstance(last, Before) and last.place.layout.kind == "tokens"
    return tokens or isinstance(last, PatchTokens | CarriedTokens)


def _last(trunk: nn.Module) -> nn.Module:
    return trunk[-1] if isinstance(trunk, nn.Sequential) else trunk
