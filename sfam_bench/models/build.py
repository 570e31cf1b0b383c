"""Build models of a trunk, a pooling, a head and a similarity; save and load their weights."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sfam_bench.core.errors import UserError, check_object, check_range
from sfam_bench.core.files import digest, read_json, write_json
from sfam_bench.core.geometry import Size
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.models.backbones import mark_weights, trunk_and_tail
from sfam_bench.models.checkpoint import (
    check_finite,
    check_kinds,
    content_digest,
    read_ours,
    read_state,
    weights,
    write_weights,
    written_digest,
)
from sfam_bench.models.cuts import TOLERANCE, Cut, distance_of, embed_parts
from sfam_bench.models.cutting import Embedding
from sfam_bench.models.networks import Options
from sfam_bench.models.poolings import GAP, Own
from sfam_bench.models.shapes import check_shapes, check_steady
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.models.tokens import Token

WEIGHTS = "weights_sha256"  # in the JSON beside them


def build(
    name: str,
    trunk: nn.Module | Cut | tuple[nn.Module, nn.Module | None],
    pooling: nn.Module,
    similarity: SimilarityFunction,
    head: nn.Module | None = None,
    normalise: bool = True,
    checkpoint: str | None = None,
    image_size: Size | None = None,
) -> SimilarityModel:
    """Assemble a model from its parts.

    Args:
        name: the model's name in tables.
        trunk: a module from images (batch, 3, rows, cols) in [0, 1] to activations (batch, channels, grid rows, grid
            cols); or a pair (trunk, tail), where the tail holds the layers between an early cut and the pooling; or a
            network cut by name (`backbone`), whose own embedding is then compared with that of the model.
        pooling: a module from activations to (batch, channels); `Own()` is the network's own.
        similarity: the similarity of two embeddings.
        head: a module from pooled features to embeddings (batch, dims); None for none.
        normalise: whether embeddings are scaled to length 1.
        checkpoint: a file of `save` with weights of this model.
        image_size: px of the images, or (rows, cols); None for the trunk's own.

    Raises:
        UserError: if a part is not a module, the trunk does not return channels first, the checkpoint does not fit, or
            the pooling leaves out a part of the network's own embedding, which was not given up.
    """
    check_range("model.image_size", image_size, Size | None)
    body, tail = trunk if isinstance(trunk, tuple | Cut) else (trunk, None)
    for what, part in {"trunk": body, "tail": tail, "pooling": pooling, "head": head}.items():
        if part is not None or what in ("trunk", "pooling"):
            check_object(part, what, nn.Module)
    check_object(similarity, "similarity", SimilarityFunction)
    embedding, projection = "", head
    if isinstance(trunk, Cut):
        embedding = check_embedding(trunk, pooling, name, head)
        if isinstance(pooling, Own):
            pooling, projection = trunk.pooling or GAP(), compose(trunk.projection, head)
    pooling = GAP() if isinstance(pooling, Own) else pooling
    model = SimilarityModel(body, Embedder(pooling, projection, tail, normalise), similarity, name, image_size).eval()
    model.embedding, model.layer = embedding, trunk.layer if isinstance(trunk, Cut) else ""
    new_head = head is not None and any(map(is_lazy, head.parameters()))
    check_shapes(model)
    if not isinstance(trunk, Cut):  # which was checked when it was made
        check_steady(model)
    if checkpoint is not None:
        load(model, Path(checkpoint))
        model.origin = origin_of(Path(checkpoint))
    elif known := getattr(body, "origin", {}):
        model.origin = {**known, "random": [*known["random"], *(["head"] if new_head else [])]}
        if head is not None and not new_head and list(head.parameters()):
            del model.origin["random"]  # whoever made the head knows
    return model


def check_embedding(cut: Cut, pooling: nn.Module, name: str, head: nn.Module | None) -> str:
    """Describe the embedding of a network cut by name: "own", or what replaces it, and whether a head follows.

    Raises:
        UserError: if the pooling gives another embedding than the network's own, without a head, and no other one was
            chosen (`embedding` of `backbone`).
    """
    headed = head is not None and not isinstance(head, nn.Identity)
    found = cut.embedding
    if not isinstance(pooling, Own) and cut.probes:
        chosen = replace(cut, pooling=pooling.to(cut.probes[0].images), projection=None)
        with torch.no_grad():
            distance = max(distance_of(embed_parts(chosen, images), own) for images, own in cut.probes)
        if not distance <= TOLERANCE:
            found = f"{type(pooling).__name__} of the last grid"
            if not headed:
                lost = ", ".join(cut.behind) or type(cut.pooling).__name__
                raise UserError(
                    f"{name} with this pooling differs from the network's own embedding by {distance:.2g} on unit "
                    f"vectors: it leaves out {lost}; use pooling=own, or choose model.trunk.embedding=pooled, which "
                    "every table then states"
                )
    return f"{found}, with a head" if headed else found


def compose(projection: nn.Module | None, head: nn.Module | None) -> nn.Module | None:
    """The network's own projection followed by the head; only the head where there is no projection."""
    if projection is None or head is None or isinstance(head, nn.Identity):
        return head if projection is None else projection
    return nn.Sequential(projection, head)


def backbone(
    name: str,
    source: str = "timm",
    layer: str | None = None,
    features: str | None = None,
    weights: str | None = None,
    token: Token | None = None,
    pretrained: bool = False,
    embedding: Embedding = "own",
    options: Options | None = None,
) -> Cut:
    """A backbone by name with weights from a file (.safetensors, or .pth read with weights_only), or downloaded ones.

    `pretrained` are the ImageNet weights of timm or torchvision; a file has priority. `embedding` is that of
    `trunk_and_tail`: "own", "pooled" or "class"; `token` is its name in configs of older runs. `options` are those of
    timm's or torchvision's function that builds the network, such as {depth: 4, embed_dim: 96}.
    """
    state = read_state(Path(weights)) if weights else None
    cut = trunk_and_tail(source, name, layer, features, state, None, token, pretrained, embedding, options)
    if weights:
        return mark_weights(cut, f"file {describe_file(Path(weights))}", source=str(weights), chosen="unknown")
    if stem := (options or {}).get("stem"):
        begun = origin_of(Path(stem))
        return mark_weights(cut, f"stem {begun.pop('weights')}", **{**begun, "random": ["blocks"]})
    return mark_weights(cut, f"pretrained ({source}/{name})" if pretrained else None)


def describe_file(path: Path) -> str:
    """The name of a file of weights and the first digits of its SHA-256."""
    return f"{path.name} (sha256 {digest(path)[:12]})"


def save(model: SimilarityModel, path: Path, facts: dict[str, Any]) -> None:
    """Write weights as safetensors, and `facts` about them as JSON beside them, both with the digest of the weights."""
    state = weights(model)
    write_json(path.with_suffix(".json"), {**facts, WEIGHTS: content_digest(state)})
    write_weights(state, path)


def weights_hash(model: nn.Module) -> str:
    """Digest of all weights, which separates the results of two checkpoints with one path."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load(model: nn.Module, path: Path) -> None:
    """Load weights that fit exactly; otherwise UserError names missing, unexpected and mismatching entries.

    A backbone may have another cut than in training: its layers are identified by their names in the uncut backbone.
    """
    read, own = read_ours(path), model.state_dict()
    theirs, ours = uncut_names(read), uncut_names(own)
    state = {theirs[key]: value for key, value in read.items()}
    keys = {ours[key]: key for key in own}
    missing, unexpected = keys.keys() - state.keys(), state.keys() - keys.keys()
    differing = {name for name in keys.keys() & state.keys() if own[keys[name]].shape != state[name].shape}
    if missing or unexpected or differing:
        example = sorted(missing | unexpected | differing)[0]
        raise UserError(
            f"checkpoint {path} does not fit the model: {len(missing)} entries missing, {len(unexpected)} unexpected, "
            f"{len(differing)} of another shape (first: {example}); use the head and pooling of its training"
        )
    check_finite(read, path)
    fitting = {keys[name]: value for name, value in state.items()}
    check_kinds(model, fitting, f"checkpoint {path}")
    model.load_state_dict(fitting)


def uncut_names(keys: Iterable[str]) -> dict[str, str]:
    """The name of each key in the uncut backbone, or the key itself where two would have the same name.

    The tail for a class token contains the last block without its first norm, which is the last layer of the trunk.
    """
    keys = list(keys)
    numbers = [int(found[1]) for key in keys if (found := re.match(r"trunk\.1\.transformer\.blocks\.(\d+)\.", key))]
    block = f"blocks.{max(numbers) + 1}." if numbers and "embedder.tail.attn.qkv.weight" in keys else ""
    names = {}
    for key in keys:
        side, name = re.fullmatch(r"(trunk\.1\.(?:transformer\.|uncut\.)?|embedder\.tail\.|)(.+)", key).groups()  # type: ignore[union-attr]
        if block and side.startswith("trunk") and name.startswith("norm."):
            name = f"{block}norm1.{name.removeprefix('norm.')}"
        elif block and side.startswith("embedder") and not name.startswith("norm."):
            name = block + name
        names[key] = name
    return names if len(set(names.values())) == len(keys) else {key: key for key in keys}


def origin_of(path: Path) -> dict[str, Any]:
    """The facts about the training of our checkpoint, from the JSON beside it."""
    file = path.with_suffix(".json")
    origin: dict[str, Any] = {"source": "sfam_bench", "chosen": "unknown", "random": []}
    if not file.is_file():
        return {**origin, "weights": f"file {describe_file(path)}"}
    facts = read_json(file, "restore it, or train again")
    if path.suffix == ".safetensors" and facts.get(WEIGHTS, written := written_digest(path)) != written:
        raise UserError(f"{file} belongs to other weights than {path}: restore both from one training")
    known: dict[str, Any] = {name: facts[name] for name in ("chosen", "split", "random") if name in facts}
    return {**origin, "weights": f"trained here, {describe_file(path)}", **known}
