"""Files of weights that are whole, and laid out as other people do: prefixes, wrappers, entries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class Networks:
    """Networks with random weights, images, and what they make of them."""

    body: nn.Module
    vit: nn.Module
    own: nn.Module
    images: Tensor
    large: Tensor
    pooled: Tensor
    token: Tensor
    embedded: Tensor


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and the embeddings before L2 that it stands for; without them it must be refused."""

    what: str
    path: Path
    expected: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    sound: bool = False
    own: bool = False
    large: bool = False
    tolerance: float = 1e-4


Way = Callable[[Networks, Random, Path], Case]
PREFIXES = ("", "module.", "model.", "backbone.", "encoder.", "_orig_mod.module.", "a.b.c.", "model.extractor.model.")


def features(networks: Networks, prefix: str = "") -> State:
    """The body without its classifier."""
    state = {key: value.clone() for key, value in networks.body.state_dict().items() if key.startswith("features.")}
    return under(prefix, state)


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The same entries behind a prefix."""
    return {f"{prefix}{key}": value for key, value in state.items()}


def saved(content: Any, folder: Path, name: str = "weights.pth") -> Path:
    """Write a file of torch.save."""
    torch.save(content, folder / name)
    return folder / name


def prefixes(networks: Networks, random: Random, folder: Path) -> Case:
    """The body behind a prefix."""
    prefix = random.choice(PREFIXES)
    path = saved(features(networks, prefix), folder)
    return Case(f"body under '{prefix}'", path, networks.pooled, sound=True)


def several(networks: Networks, random: Random, folder: Path) -> Case:
    """Two networks in one file."""
    other = {key: value + 0.1 if value.is_floating_point() else value for key, value in features(networks).items()}
    pairs = (("student.", "teacher."), ("module.encoder_q.", "module.encoder_k."), ("net.", "ema."), ("", "momentum."))
    one, two = random.choice(pairs)
    state = {**features(networks, one), **under(two, other)}
    if random.random() < 0.3:
        state["queue"] = torch.rand(4, 4)
    if random.random() < 0.6:
        path = saved(state, folder)
        return Case(
            f"networks under '{one}' and '{two}', the first is asked for", path, networks.pooled, {"prefix": one}
        )
    return Case(f"networks under '{one}' and '{two}'", saved(state, folder), None, names=(two,))


def entries(networks: Networks, random: Random, folder: Path) -> Case:
    """One entry is missing, foreign, renamed, of another shape or type, or not finite."""
    own = random.random() < 0.4
    state = (
        {key: value.clone() for key, value in networks.own.state_dict().items()}
        if own
        else features(networks, "model.")
    )
    expected = networks.embedded if own else networks.pooled
    floats = [key for key, value in state.items() if value.is_floating_point()]
    key, known = random.choice(floats), None
    ways = ("missing", "renamed", "longer", "transposed", "scalar", "NaN", "infinite", "integers", "complex", "foreign")
    how = random.choice(
        (*ways, "float16", "bfloat16", "float64", "variance below 0", "no counters", "empty", "None", "a list")
    )
    content: dict[str, Any] = dict(state)
    if how == "missing":
        del content[key]
    elif how == "renamed":
        content[f"{key}_"] = content.pop(key)
    elif how in ("longer", "transposed", "scalar", "empty"):
        value = state[key]
        shapes = {
            "longer": torch.cat([value, value]),
            "transposed": value.flatten()[None],
            "scalar": value.mean(),
            "empty": value[:0],
        }
        content[key] = shapes[how]
    elif how in ("NaN", "infinite"):
        content[key].view(-1)[0] = torch.nan if how == "NaN" else torch.inf
    elif how in ("integers", "complex"):
        content[key] = (content[key] * 10).to(torch.int64 if how == "integers" else torch.complex64)
    elif how == "foreign":
        content["something.else.weight"] = torch.rand(4, 4)
    elif how in ("None", "a list"):
        content[key] = None if how == "None" else state[key].flatten()[:4].tolist()
    elif how == "variance below 0":
        key = random.choice([name for name in floats if name.endswith("running_var")])
        content[key] = -content[key]
    elif how == "no counters":
        content = {name: value for name, value in content.items() if not name.endswith("num_batches_tracked")}
        known = expected
    else:
        dtype = getattr(torch, how)
        content = {name: value.to(dtype) if value.is_floating_point() else value for name, value in content.items()}
        known = expected
    tolerance = 5e-2 if how in ("float16", "bfloat16") else 1e-4
    path = saved(content, folder)
    return Case(f"{'our own' if own else 'body'}: {key} {how}", path, known, names=(key,), own=own, tolerance=tolerance)


def wrappers(networks: Networks, random: Random, folder: Path) -> Case:
    """The state dict among other things."""
    state = features(networks)
    weight = nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimiser.step()
    beside: dict[str, Any] = {
        "epoch": 3,
        "optimizer": optimiser.state_dict(),
        "args": {"lr": 0.1},
        "best": torch.tensor(0.5),
    }
    name = random.choice(
        ("state_dict", "model", "model_state_dict", "net", "weights", "params", "state", "teacher", "ema")
    )
    content: Any = {name: state, **beside}
    how = random.choice(("beside an optimiser", "nested twice", "in a list", "flat beside an optimiser", "two of them"))
    if how == "nested twice":
        content = {"checkpoint": {name: state}}
    elif how == "in a list":
        content = [state]
    elif how == "flat beside an optimiser":
        content = {**state, **beside}
    elif how == "two of them":
        content = {"state_dict": state, "model": {key: value * 0 + 1 for key, value in state.items()}, **beside}
    known = None if how == "two of them" else networks.pooled
    return Case(f"'{name}' {how}", saved(content, folder), known, names=(name,))


def options(networks: Networks, random: Random, folder: Path) -> Case:
    """A sound file, and a setting that does not fit it."""
    key, value = random.choice(
        (
            *(("head", value) for value in ("nowhere", "features", "", "features.0")),
            *(("prefix", value) for value in ("nope.", "feat", "features.")),
            *(
                ("backbone", value)
                for value in ("timm/no_such", "resnet18", "torchvision/", "nobody/resnet18", "torchvision/resnet50")
            ),
            *(("layer", value) for value in ("layer9", "", "features.99")),
            *(("source", value) for value in ("proxy", "plain ")),
            ("token", "class"),
        )
    )
    names = (key, *filter(None, str(value).split("/")))
    return Case(
        f"sound file, model.{key}={value!r}", saved(features(networks), folder), None, {key: value}, names=names
    )


WAYS: tuple[Way, ...] = (prefixes, entries, several, wrappers, entries, options, entries)
