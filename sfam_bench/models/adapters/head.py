"""A head out of the entries that a file has for it."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from sfam_bench.errors import UserError


def head_of(entries: Mapping[str, Tensor], path: Path) -> nn.Sequential | None:
    """The layers of a head by their numbers: linear ones, norms, and a ReLU wherever a number has no entries.

    A layer without numbers stands alone; no entries are no head.
    """
    if not entries:
        return None
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in _bare(entries).items():
        found = re.fullmatch(r"(?:(\d+)\.)?(\w+)", key)
        if found is None:
            raise UserError(
                f"the head in {path} is no sequence of layers (entry {key}): name a head in Python, or model.head=none"
            )
        parts.setdefault(int(found[1] or 0), {})[found[2]] = value
    layers = [_layer(parts[number], path) if number in parts else nn.ReLU() for number in range(max(parts) + 1)]
    return nn.Sequential(*layers)


def _bare(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries without the names of what the layers are wrapped in."""
    named = dict(entries)
    while len(outer := {key.partition(".")[0] for key in named}) == 1 and not next(iter(outer)).isdigit():
        if not all("." in key for key in named):
            break
        named = {key.partition(".")[2]: value for key, value in named.items()}
    return named


def _layer(entries: Mapping[str, Tensor], path: Path) -> nn.Module:
    weight = entries.get("weight")
    layer: nn.Module | None = None
    if "running_mean" in entries:
        layer = nn.BatchNorm1d(len(entries["running_mean"]), affine=weight is not None)
    elif weight is not None and weight.ndim == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in entries)
    elif weight is not None and weight.ndim == 1 and "bias" in entries:
        layer = nn.LayerNorm(len(weight))
    expected = set() if layer is None else layer.state_dict().keys() - {"num_batches_tracked"}
    if layer is None or not expected <= entries.keys() <= layer.state_dict().keys():
        raise UserError(f"the head in {path} has a layer of {', '.join(sorted(entries))}, which is none that is known")
    layer.load_state_dict(dict(entries), strict=False)
    return layer
