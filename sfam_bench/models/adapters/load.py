"""A model from a checkpoint of another code base."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, check_range, first_line
from sfam_bench.core.geometry import Geometry, Size
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.models.adapters.architecture import CLIP, Backbone, find
from sfam_bench.models.adapters.codebases import CodeBase, read_codebase
from sfam_bench.models.adapters.head import Plain, head_of
from sfam_bench.models.adapters.leftover import LeftOver, ask, short, without, wrappers
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build, describe_file
from sfam_bench.models.checkpoint import check_finite, describe_halves
from sfam_bench.models.cuts import Cut
from sfam_bench.models.cutting import Embedding
from sfam_bench.models.poolings import GAP, Own
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, find_geometry
from sfam_bench.models.tokens import Token

CLIP_HEAD = "proj"  # the matrix by which CLIP multiplies its class token

log = logging.getLogger(__name__)


def checkpoint(
    path: str,
    similarity: SimilarityFunction,
    source: Literal["auto", CodeBase] = "auto",
    backbone: str | None = None,
    prefix: str | None = None,
    head: str | None = None,
    head_layers: list[Plain] | None = None,
    ignore: Sequence[str] = (),
    pooling: nn.Module | None = None,
    normalise: bool | None = None,
    token: Literal["auto", Token] = "auto",
    layer: str | None = None,
    features: str | None = None,
    name: str | None = None,
    image_size: Size | None = None,
) -> SimilarityModel:
    """The model in a file of another code base; settings that are None or "auto" are inferred or raise UserError.

    `backbone` is SOURCE/NAME and `prefix` that of its keys, `head` the module of the head (none: there is none) and
    `head_layers` its layers without entries, in order; `ignore` are names or patterns of modules that are not part of
    the model; `token`, `layer` and `features` are those of `trunk_and_tail`.
    """
    check_range("model.image_size", image_size, Size | None)
    file = Path(path)
    found = read_codebase(file, None if source == "auto" else source)
    state = without(found.state, ignore, file)
    if halves := describe_halves(state):
        log.warning("%s: %s", path, halves)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    check_finite(state, file)
    body = find(state, file, backbone, prefix, found.preferred)
    transformer = body.source == "timm" and body.name.startswith(("vit_", "deit"))
    read = ("class" if transformer else None) if token == "auto" else token
    embedding: Embedding = "own" if pooling is None else "pooled"  # a pooling of one's own is another embedding
    try:
        cut = trunk_and_tail(
            body.source, body.name, layer, features, body.state, found.standardise, read, embedding=embedding
        )
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    own = read is None and features is None and type(found.pooling) is GAP  # the network's, with norms behind it
    pooled = pooling or (Own() if own else found.pooling)
    known = (*([CLIP_HEAD] if f"{body.prefix}{CLIP}" in body.keys else []), *found.heads)
    names = known if head is None else () if head == "none" else (head,)
    projection = Projection.of(state, body, names, file, head_layers, found.between)
    any_size = found.source == "open-metric-learning"  # its ResNets keep ImageNet's classifier as the head
    left = LeftOver.of(state, body, projection.keys, known, found.ignored, head == "none", any_size)
    if head not in (None, "none") and not projection.name:
        there = ", ".join([*left.heads, *left.classifiers, *left.strange]) or "none besides its backbone"
        raise UserError(f"{path} has no head '{head}': model.head names a module of the file ({there}), or none")
    if head_layers and not projection.name:
        raise UserError(f"model.head_layers is given, but {path} has no known head: also give model.head=NAME")
    rest = [*left.heads, *left.strange] if head is None else []
    width = _width(cut, pooled, find_geometry(cut.trunk).at(image_size)) if rest else 0
    ask(file, left, body, projection.name, [name for name in rest if could_be_head(state, name, width)])
    for module in left.classifiers:
        log.warning("%s: %s is ignored as a classifier; use it with model.head=%s", path, module, short(module, body))
    ignored = sorted({*left.unused, *left.classifiers, *ignore})
    log.info(
        "%s: %s, %s/%s under '%s', head: %s, ignored: %s",
        *(
            path,
            found.source,
            body.source,
            body.name,
            body.prefix,
            projection.summary,
            ", ".join(ignored) or "nothing",
        ),
    )
    norm = found.normalise if normalise is None else normalise
    try:
        model = build(name or file.stem, cut, pooled, similarity, projection.module, norm, image_size=image_size)
    except RuntimeError as error:
        why = first_line(error, 120)
        raise UserError(
            f"the head in {path} does not fit behind {body.name} and its pooling ({why}): give another module as "
            "model.head, model.head=none, or another model.pooling"
        ) from error
    model.origin = {**found.origin, "weights": f"file {describe_file(file)}", "random": []}
    return model


def _width(cut: Cut, pooling: nn.Module, geometry: Geometry) -> int:
    """The number of features that a head reads."""
    trunk, tail = cut
    with torch.no_grad():
        activations = trunk.eval()(torch.zeros(1, 3, *geometry.size))
        parts = (cut.pooling or GAP(), cut.projection) if isinstance(pooling, Own) else (pooling, None)
        return Embedder(*parts, tail).eval()(activations).shape[1]


def could_be_head(state: dict[str, Tensor], module: str, width: int) -> bool:
    """Whether the entries of a module are layers that read features of this width."""
    entries = {key.removeprefix(f"{module}."): value for key, value in state.items() if key.startswith(f"{module}.")}
    try:
        head = head_of(entries, module, plain=["identity"] * len(entries))
        return head is not None and head(torch.zeros(2, width)).ndim == 2
    except (UserError, RuntimeError):
        return False


@dataclass(frozen=True)
class Projection:
    """The head, its keys and its name in the file; empty without a head."""

    module: nn.Module | None = None
    keys: frozenset[str] = frozenset()
    name: str | None = None

    @property
    def summary(self) -> str:
        """The name of the head and its layers, or none."""
        layers = self.module if isinstance(self.module, nn.Sequential) else ()
        return f"{self.name} ({', '.join(type(layer).__name__ for layer in layers)})" if self.name else "none"

    @classmethod
    def of(
        cls,
        state: dict[str, Tensor],
        body: Backbone,
        names: tuple[str, ...],
        path: Path,
        plain: Sequence[Plain] | None,
        between: tuple[str, ...],
    ) -> "Projection":
        """The first module of `names` beside the backbone or one of its wrappers."""
        for name in names:
            for start in wrappers(body.prefix):
                module = f"{start}{name}"
                if name == CLIP_HEAD and module in state:
                    return cls(head_of({"weight": state[module].T}, module, plain), frozenset({module}), module)
                keys = frozenset(key for key in state if key.startswith(f"{module}.")) - body.keys
                if keys:
                    entries = {key.removeprefix(f"{module}."): state[key] for key in keys}
                    return cls(head_of(entries, f"the head {module} in {path}", plain, between), keys, module)
        return cls()
