"""A model out of a file that another code base wrote."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from sfam_bench.errors import UserError
from sfam_bench.models.adapters.architecture import CLIP, Backbone, find
from sfam_bench.models.adapters.codebases import CodeBase, reading
from sfam_bench.models.adapters.head import head_of
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build
from sfam_bench.models.checkpoint import check_finite
from sfam_bench.models.networks import CLASSIFIER
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.tokens import Token
from sfam_bench.ranges import Count
from sfam_bench.similarity import SimilarityFunction

# What else may be left over: losses, and the text tower of CLIP
UNUSED = (*CLASSIFIER, "criterion.", "loss.", "text_projection", "logit_scale", "token_embedding.", "ln_final.")
TEXT = ("positional_embedding", "transformer.")

log = logging.getLogger(__name__)


def checkpoint(
    path: str,
    similarity: SimilarityFunction,
    source: Literal["auto", CodeBase] = "auto",
    backbone: str | None = None,
    prefix: str | None = None,
    head: str | None = None,
    pooling: nn.Module | None = None,
    normalise: bool | None = None,
    token: Literal["auto", Token] = "auto",
    layer: str | None = None,
    features: str | None = None,
    name: str | None = None,
    image_size: Count = 224,
) -> SimilarityModel:
    """The model in a file of another code base; what is None or "auto" is found, or UserError says what to give.

    `backbone` is SOURCE/NAME, `prefix` that of its keys, `head` the module that is the head (none: there is none);
    `token`, `layer` and `features` are those of `trunk_and_tail`.
    """
    file = Path(path)
    found = reading(file, None if source == "auto" else source)
    state = {key: value.float() if value.is_floating_point() else value for key, value in found.state.items()}
    check_finite(state, file)
    body = find(state, file, backbone, prefix, found.preferred)
    heads = found.heads if head is None else () if head == "none" else (head,)
    projection = Projection.of(state, body, heads, file)
    if head not in (None, "none") and projection.module is None:
        raise UserError(f"{path} has no head '{head}': model.head names a module of the file, or none")
    ignored = left_over(state, body, projection, (*found.ignored, *(found.heads if head == "none" else ())), file)
    log.info(
        "%s: %s, %s/%s under '%s', head: %s, ignored: %s",
        *(path, found.source, body.source, body.name, body.prefix, projection.said, ", ".join(ignored) or "nothing"),
    )
    transformer = body.source == "timm" and body.name.startswith(("vit_", "deit"))
    read: Token = ("class" if transformer else "patch") if token == "auto" else token
    cut = trunk_and_tail(body.source, body.name, layer, features, body.state, found.standardise, read)
    norm = found.normalise if normalise is None else normalise
    pooled = pooling or found.pooling
    try:
        model = build(name or file.stem, cut, pooled, similarity, projection.module, norm, image_size=image_size)
    except RuntimeError as error:
        why = str(error).splitlines()[0][:120]
        raise UserError(
            f"the head in {path} does not fit behind {body.name} and its pooling ({why}): give model.head or "
            "model.pooling"
        ) from error
    model.origin = found.origin
    return model


@dataclass(frozen=True)
class Projection:
    """The head, its keys in the file, and what it is in words."""

    module: nn.Module | None
    keys: frozenset[str]
    said: str

    @classmethod
    def of(cls, state: dict[str, Tensor], body: Backbone, names: tuple[str, ...], path: Path) -> "Projection":
        """The first of the modules `names` that stands beside the backbone or beside what wraps it."""
        if f"{body.prefix}{CLIP}" in body.keys:
            return cls._clip(state, f"{body.prefix}proj", bool(names))
        for name in names:
            for start in wrappers(body.prefix):
                keys = frozenset(key for key in state if key.startswith(f"{start}{name}.")) - body.keys
                if keys:
                    module = head_of({key.removeprefix(f"{start}{name}."): state[key] for key in keys}, path)
                    shown = ", ".join(type(layer).__name__ for layer in module or ())
                    return cls(module, keys, f"{start}{name} ({shown})")
        return cls(None, frozenset(), "none")

    @classmethod
    def _clip(cls, state: dict[str, Tensor], key: str, wanted: bool) -> "Projection":
        """CLIP multiplies its class token by a matrix."""
        keys = frozenset({key} & state.keys())
        if not keys or not wanted:
            return cls(None, keys, "none")
        return cls(head_of({"weight": state[key].T}, Path(key)), keys, f"{key} (Linear)")


def left_over(
    state: dict[str, Tensor], body: Backbone, head: Projection, ignored: tuple[str, ...], path: Path
) -> list[str]:
    """The modules of the file that are no part of the model; UserError where one is not known to be unused."""
    names = (*UNUSED, *(f"{name}." for name in ignored), *(TEXT if body.prefix.endswith("visual.") else ()))
    unused = tuple(f"{start}{name}" for start in wrappers(body.prefix) for name in names)
    rest = sorted(key for key in state.keys() - body.keys - head.keys if not key.endswith("num_batches_tracked"))
    if strange := [key for key in rest if not key.startswith(unused)]:
        raise UserError(
            f"{path} has {len(strange)} entries that fit nowhere in {body.name} (first: {', '.join(strange[:3])}): "
            "give the module that is the head as model.head, or another model.source or model.backbone"
        )
    return sorted({key.rpartition(".")[0] or key for key in rest})


def wrappers(prefix: str) -> list[str]:
    """A prefix and what is before each of its names, longest first: "a.b." gives "a.b.", "a." and ""."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]
