"""A head, built from its entries in a file."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.models.checkpoint import check_kinds

# Layers of a head without entries in the file; dropout is the identity at test time
Plain: TypeAlias = Literal["identity", "dropout", "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"]
PLAIN: dict[str, type[nn.Module]] = {
    **{"identity": nn.Identity, "dropout": nn.Identity, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU},
    **{"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid},
}

log = logging.getLogger(__name__)


def head_of(
    entries: Mapping[str, Tensor],
    where: str,
    plain: Sequence[str] | None = None,
    between: Sequence[str] = (),
) -> nn.Sequential | None:
    """The head of these entries, linear layers and norms in the order of their numbers; None without entries.

    `plain` names the layer of each number without entries, in order, and any layers after the last one. Where it is
    None, the layers are those of `between` (the code base's), or UserError is raised; numbers before the first
    entry are then read as the identity, with a warning. `where` names the head in messages.
    """
    if not entries:
        return None
    layers = {number: _layer(part, where) for number, part in _group_layers(entries, where).items()}
    absent = [number for number in range(max(layers)) if number not in layers]
    first = [number for number in absent if number < min(layers)]
    inner = absent[len(first) :]
    if plain is None and inner and not between:
        raise UserError(
            f"{where} has no entries for {_words(absent)} of 0 to {max(layers)}, which the file does not describe: "
            f"name each layer as 'model.head_layers=[{','.join(['relu'] * len(absent))}]', from {', '.join(PLAIN)}"
        )
    if plain is None:
        if first:
            log.warning(
                "%s has no entries for %s: read as the identity, such as dropout at test time; "
                "name other layers as model.head_layers",
                *(where, _words(first)),
            )
        plain = [
            *("identity" for _ in first),
            *(between[0 if number - 1 in layers else -1] for number in inner),
        ]
    if len(plain) < len(absent):
        raise UserError(
            f"model.head_layers names {len(plain)} layers, but {where} has no entries for {_words(absent)}: name each"
        )
    layers |= {number: PLAIN[name]() for number, name in zip(absent, plain, strict=False)}
    behind = [PLAIN[name]() for name in plain[len(absent) :]]
    return nn.Sequential(*(layers[number] for number in sorted(layers)), *behind)


def _words(numbers: Sequence[int]) -> str:
    return f"number{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _group_layers(entries: Mapping[str, Tensor], where: str) -> dict[int, dict[str, Tensor]]:
    """The entries of each layer by its number; 0 for a single layer without a number."""
    parts: dict[int, dict[str, Tensor]] = {}
    bare = _strip_wrappers(entries)
    found = {key: re.fullmatch(r"(?:(\d+)\.)?(\w+)", key) for key in bare}
    if strange := [key for key, match in found.items() if match is None]:
        raise UserError(f"{where} is not a sequence of layers (entry {strange[0]})")
    if len({match[1] is None for match in found.values() if match}) > 1:
        raise UserError(f"{where} is not a sequence of layers: only some of {', '.join(sorted(bare))} have a number")
    for key, match in found.items():
        parts.setdefault(int(match[1] or 0), {})[match[2]] = bare[key]  # type: ignore[index]
    return parts


def _strip_wrappers(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries without the names of modules that wrap the layers."""
    named = dict(entries)
    while len(outer := {key.partition(".")[0] for key in named}) == 1 and not next(iter(outer)).isdigit():
        if not all("." in key for key in named):
            break
        named = {key.partition(".")[2]: value for key, value in named.items()}
    return named


def _layer(entries: Mapping[str, Tensor], where: str) -> nn.Module:
    weight = entries.get("weight")
    layer: nn.Module | None = None
    if "running_mean" in entries:
        layer = nn.BatchNorm1d(len(entries["running_mean"]), affine=weight is not None)
    elif weight is not None and weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in entries)
    elif weight is not None and weight.ndim == 1 and "bias" in entries:
        layer = nn.LayerNorm(len(weight))
    expected = {} if layer is None else {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    fits = all(key in entries and entries[key].shape == value.shape for key, value in expected.items())
    if layer is None or not fits or entries.keys() - {"num_batches_tracked"} - expected.keys():
        raise UserError(f"{where} has a layer of {', '.join(sorted(entries))}, which is not a known layer")
    check_kinds(layer, entries, where)
    layer.load_state_dict(dict(entries), strict=False)
    return layer
