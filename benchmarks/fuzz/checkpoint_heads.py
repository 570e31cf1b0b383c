"""Files of weights with a head, by any name and of any layers: used as it is, or asked for."""

from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from benchmarks.fuzz.checkpoint_layouts import Case, Networks, Way, features, saved, under


def head(networks: Networks, module: nn.Module, pooled: Tensor | None = None) -> Tensor:
    """What a head makes of the pooled features."""
    with torch.no_grad():
        found: Tensor = module.eval()(networks.pooled if pooled is None else pooled)
        return found


def linear_heads(networks: Networks, random: Random, folder: Path) -> Case:
    """A linear head by any name: used, or asked for."""
    name = random.choice(
        ("embedder", "embedding", "projection", "fc", "head", "classifier.1", "net.fc", "proj", "last_linear")
    )
    layer, prefix = nn.Linear(1280, random.choice((64, 128, 512))), random.choice(("", "model.", "backbone."))
    before = random.choice((prefix, ""))
    path = saved({**features(networks, prefix), **under(f"{before}{name}.", layer.state_dict())}, folder)
    given = random.random() < 0.3
    what = f"body under '{prefix}', {before}{name}: {layer}{', model.head given' if given else ''}"
    return Case(what, path, head(networks, layer), {"head": name} if given else {}, names=(name,))


def classifier(networks: Networks, random: Random, folder: Path) -> Case:
    """The classifier of ImageNet is no embedding."""
    return Case("body and its classifier of 1000", saved(networks.body.state_dict(), folder), networks.pooled)


def deep_heads(networks: Networks, random: Random, folder: Path) -> Case:
    """Heads of several layers, some of which leave no entries: right, or asked for."""
    heads: dict[str, nn.Module] = {
        "Dropout, Linear": nn.Sequential(nn.Dropout(), nn.Linear(1280, 64)),
        "Linear, ReLU, Linear": nn.Sequential(nn.Linear(1280, 96), nn.ReLU(), nn.Linear(96, 64)),
        "Linear, Dropout, Linear": nn.Sequential(nn.Linear(1280, 96), nn.Dropout(), nn.Linear(96, 64)),
        "Linear, GELU, Linear": nn.Sequential(nn.Linear(1280, 96), nn.GELU(), nn.Linear(96, 64)),
        "Linear, ReLU, Dropout, Linear": nn.Sequential(nn.Linear(1280, 96), nn.ReLU(), nn.Dropout(), nn.Linear(96, 64)),
        "LayerNorm, Linear": nn.Sequential(nn.LayerNorm(1280), nn.Linear(1280, 64)),
        "Linear, BatchNorm, ReLU, Linear": nn.Sequential(
            nn.Linear(1280, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64)
        ),
        "Linear, Tanh": nn.Sequential(nn.Linear(1280, 64), nn.Tanh()),
        "ReLU, Linear": nn.Sequential(nn.ReLU(), nn.Linear(1280, 64)),
        "Flatten, Linear": nn.Sequential(nn.Flatten(), nn.Linear(1280, 64)),
        "Linear, Linear": nn.Sequential(nn.Linear(1280, 96), nn.Linear(96, 64)),
    }
    name, module = random.choice(sorted(heads.items()))
    place = random.choice(("embedder", "projection", "head"))
    path = saved({**features(networks, "backbone."), **under(f"{place}.", module.state_dict())}, folder)
    options = {"head": place} if place == "head" else {}
    # Tanh leaves no entry at all: nobody can know of it
    expected = head(networks, module[0] if "Tanh" in name else module)  # type: ignore[index]
    return Case(f"{place}: {name}", path, expected, options, names=(place,))


def token_heads(networks: Networks, random: Random, folder: Path) -> Case:
    """A vision transformer with a head."""
    module = random.choice((nn.Linear(192, 32), nn.Sequential(nn.Dropout(0.1), nn.Linear(192, 32)), None))
    state = under("backbone.", networks.vit.state_dict())
    state |= {} if module is None else under("embedder.", module.state_dict())
    how = random.choice(("as it is", "without norm", "positions of 384 px", "float16"))
    if how == "without norm":
        state = {key: value for key, value in state.items() if not key.startswith("backbone.norm.")}
    elif how == "positions of 384 px":
        state["backbone.pos_embed"] = torch.rand(1, 577, 192)
    elif how == "float16":
        state = {key: value.half() for key, value in state.items()}
    expected = networks.token if module is None else head(networks, module, networks.token)
    known = None if how in ("without norm", "positions of 384 px") else expected
    options = {"backbone": "timm/vit_tiny_patch16_224"}
    tolerance = 2e-2 if how == "float16" else 1e-3
    return Case(f"ViT, embedder {module}, {how}", saved(state, folder), known, options, large=True, tolerance=tolerance)


WAYS: tuple[Way, ...] = (linear_heads, deep_heads, linear_heads, deep_heads, token_heads, classifier)
