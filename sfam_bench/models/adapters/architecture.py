"""The backbone of a state dict, identified by keys and shapes with any prefix."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.models.backbones import misfits
from sfam_bench.models.checkpoint import choose_evaluated
from sfam_bench.models.networks import CLASSIFIER, network, translate_keys

QUOTES = "''"  # nothing, on a command line
TOKENS, CLIP = "blocks.0.attn.qkv.weight", "class_embedding"
FAMILIES = {  # a key of this family alone, and its members as SOURCE/NAME
    "layer4.0.conv1.weight": (
        *(f"torchvision/resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"torchvision/{name}" for name in ("wide_resnet50_2", "resnext50_32x4d", "resnext101_32x8d")),
    ),
    "conv1_7x7_s2.weight": ("sfam_bench/bn_inception",),
    "inception3a.branch1.conv.weight": ("torchvision/googlenet",),
    "features.denseblock4.denselayer1.norm1.weight": tuple(f"torchvision/densenet{n}" for n in (121, 161, 169, 201)),
    "features.18.0.weight": ("torchvision/mobilenet_v2",),
    "blocks.0.0.conv_dw.weight": ("timm/tf_efficientnet_lite0",),
    TOKENS: (
        *(f"timm/vit_{size}_patch{side}_224.dino" for size in ("small", "base") for side in (8, 16)),
        *(f"timm/vit_{size}_patch16_224.augreg_in21k" for size in ("tiny", "small", "base", "large")),
        *(
            f"timm/vit_{size}_patch14_{kind}.lvd142m"
            for size in ("small", "base", "large")
            for kind in ("dinov2", "reg4_dinov2")
        ),
    ),
    CLIP: tuple(
        f"timm/vit_{size}_clip_{training}"
        for size in ("base_patch16", "base_patch32", "large_patch14")
        for training in ("quickgelu_224.openai", "224.laion2b")
    ),
}
# Entries of a backbone without a timm name: of CLIP's vision tower, and of DINOv2
FOREIGN_CLIP = re.compile(r"(conv1|ln_pre|ln_post|transformer)\..*|class_embedding|positional_embedding")
FOREIGN = re.compile(r"mask_token|register_tokens")


@dataclass(frozen=True)
class Backbone:
    """A backbone by source and name; `keys` are its entries in the file, which begin with `prefix`."""

    source: str
    name: str
    prefix: str
    keys: frozenset[str]
    state: dict[str, Tensor]  # by the backbone's names
    others: tuple[str, ...] = ()  # prefixes of other networks in the file, where the user chose this one


def find(
    state: dict[str, Tensor], path: Path, given: str | None, prefix: str | None, preferred: tuple[str, ...] = ()
) -> Backbone:
    """The backbone `given` as SOURCE/NAME (timm without a source), or the one that matches keys and shapes.

    Among several that match, the one whose name ends with one of `preferred` is used; otherwise UserError is raised.
    """
    families = dict(FAMILIES)
    if given is not None:
        given = given if "/" in given else f"timm/{given}"
        net = build_empty(given)
        transformer = (TOKENS, CLIP) if isinstance(net, VisionTransformer) else ()  # named differently elsewhere
        own = [key for key in net.state_dict() if not key.startswith(_unused(given))]
        deepest = max(own, key=lambda key: (key.count("."), len(key)))
        families = dict.fromkeys((*transformer, deepest), (given,))
    places = {key: anchor for anchor in reversed(families) for key in _places(state, anchor)}
    if prefix is not None:
        return _chosen(state, path, prefix, families, preferred)
    if not places and given is not None:
        return _fitting("", state, path, [given], preferred)
    starts = {key.removesuffix(anchor): families[anchor] for key, anchor in sorted(places.items())}
    if len(starts) > 1 and given is None:  # a part of a network may match another one
        starts = {start: members for start, members in starts.items() if _try_members(start, state, members)[0]}
    if len(starts) > 1 and (evaluated := choose_evaluated(list(starts))) is not None:
        return _chosen(state, path, evaluated, families, preferred)
    if len(starts) > 1:
        choices = " or ".join(f"model.prefix={start or QUOTES}" for start in starts)
        raise UserError(f"{path} holds several backbones: choose one as {choices}")
    if not starts:
        raise UserError(
            f"{path} contains no known backbone (first key: {next(iter(state))}): name it as "
            "model.backbone=SOURCE/NAME, of timm, torchvision or sfam_bench"
        )
    ((start, members),) = starts.items()
    return _fitting(start, state, path, members, preferred)


def _chosen(
    state: dict[str, Tensor], path: Path, prefix: str, families: dict[str, tuple[str, ...]], preferred: tuple[str, ...]
) -> Backbone:
    """The backbone with the user's prefix (with or without its last dot), and the prefixes of others."""
    prefix = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    everywhere = {key: anchor for anchor in (*FAMILIES, *families) for key in _places(state, anchor)}
    members = next((family for anchor, family in families.items() if f"{prefix}{anchor}" in state), None)
    if members is None:
        known = sorted({key.removesuffix(anchor) for key, anchor in everywhere.items()})
        raise UserError(
            f"{path} contains no known backbone at model.prefix={prefix or QUOTES}: "
            + (f"choose one of {', '.join(start or QUOTES for start in known)}, or " if known else "")
            + "name it as model.backbone=SOURCE/NAME"
        )
    body = _fitting(prefix, state, path, members, preferred)
    others = {key.removesuffix(anchor) for key, anchor in everywhere.items() if key not in body.keys}
    return replace(body, others=tuple(sorted(others - {prefix})))


def _fitting(
    prefix: str, state: dict[str, Tensor], path: Path, members: Sequence[str], preferred: tuple[str, ...]
) -> Backbone:
    """The one of `members` that matches the entries with a prefix."""
    fitting, misfit = _try_members(prefix, state, members)
    if not fitting:
        nearest = min(misfit, key=lambda member: sum(map(len, misfit[member])))
        missing, differing = misfit[nearest]
        whose = nearest if len(members) == 1 else f"{nearest} or its relatives"
        raise UserError(
            f"the weights in {path} do not fit {whose}: {len(missing)} entries missing, {len(differing)} of another "
            f"shape (first: {(missing + differing)[0]}); name their backbone as model.backbone"
        )
    chosen = [member for member in fitting if len(fitting) == 1 or member.endswith(preferred)]
    if len(chosen) != 1:
        raise UserError(
            f"the weights in {path} fit {' and '.join(fitting)}, which differ in standardisation or "
            f"activation functions: choose one as {' or '.join(f'model.backbone={name}' for name in fitting)}"
        )
    source, _, name = chosen[0].partition("/")
    kept = fitting[chosen[0]]
    names = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    foreign = FOREIGN_CLIP if CLIP in names.values() else FOREIGN
    read = foreign.fullmatch if source == "timm" and name.startswith("vit_") else kept.get
    keys = frozenset(key for key, own in names.items() if own in kept or read(own) is not None)
    return Backbone(source, name, prefix, keys, kept)


def _try_members(
    prefix: str, state: dict[str, Tensor], members: Sequence[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, tuple[list[str], list[str]]]]:
    """The matching `members` with their entries, and the missing and differing entries of the others."""
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if CLIP in inside:  # timm expects CLIP's prefix of a vision tower
        inside = {f"visual.{key}": value for key, value in inside.items()}
    fitting: dict[str, dict[str, Tensor]] = {}
    misfit = {}
    for member in members:
        model, unused = build_empty(member), _unused(member)
        own = translate_keys(model, inside)
        missing, differing = misfits(model, own, unused)
        if missing or differing:
            misfit[member] = (missing, differing)
            continue
        needed = model.state_dict().keys()
        fitting[member] = {k: v for k, v in own.items() if k in needed and not k.startswith(unused)}
    return fitting, misfit


def _places(state: dict[str, Tensor], anchor: str) -> list[str]:
    """The keys that end with an anchor."""
    return [key for key in state if key == anchor or key.endswith(f".{anchor}")]


def _unused(member: str) -> tuple[str, ...]:
    return CLASSIFIER if member.startswith("torchvision/") else ()


@cache
def build_empty(member: str) -> nn.Module:
    """A network on the meta device, without memory for its weights."""
    source, _, name = member.partition("/")
    with torch.device("meta"):
        return network(source, name)[0]
