"""Find where any module is cut, so that its parts together compute the module's own embedding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Activations
from sfam_bench.models.cuts import TOLERANCE, Cut, distance_of
from sfam_bench.models.factors import FAILURES, Read, ToPoint, factor, without_l2
from sfam_bench.models.graph import Graph
from sfam_bench.models.layouts import size_of
from sfam_bench.models.outputs import WithoutL2
from sfam_bench.models.poolings import GAP
from sfam_bench.models.splice import Before, Behind, Place, Seen, outermost
from sfam_bench.models.whole import Whole, is_compiled

UNUSED = 1e-6  # derivatives by tokens that the embedding does not depend on, relative to the largest
SCALE_FREE = 1e-3  # sum of shares of positions before a norm, relative to that of their magnitudes
UNCHANGED = ("Identity", "Dropout", "DropPath", "Dropout2d")  # modules that return their input
MOST_TRIED = 30  # layers

Embedding: TypeAlias = Literal["own", "pooled", "class"]
NAMED: dict[Embedding, str] = {"own": "own", "pooled": "pooled last grid", "class": "class token"}


@dataclass(frozen=True)
class Parts:
    """A module in two parts, with the activations of the first probe between them.

    `middle` are layers between the cut and the last grid, which `rest` reads.
    """

    trunk: nn.Module
    rest: nn.Module
    layer: str
    activations: Activations
    middle: nn.Module | None = None

    @property
    def grid(self) -> Activations:
        """What `rest` reads."""
        found: Activations = self.activations if self.middle is None else self.middle(self.activations)
        return found


def cut_module(
    whole: Whole,
    layer: str | None = None,
    features: str | None = None,
    embedding: Embedding = "own",
    normalise: bool = True,
) -> Cut:
    """Cut a module at `layer`, or at its last grid or tokens, which `features` may name.

    An L2 at its end is left to the embedder if that is to `normalise`.

    With embedding "pooled" the last grid or tokens are pooled, whatever the module computes of them.

    Raises:
        UserError: if there is no such layer, or the embedding does not depend on it alone.
    """
    parts = trace(whole, layer, features)
    if embedding == "pooled":
        return pool_last(whole, parts, layer)
    if parts is None:
        parts = split_last(whole) if layer is None else split_at(whole, layer)
    with torch.no_grad():
        grid = parts.grid
    rest = without_l2(parts.rest, grid, whole.name) if normalise else parts.rest
    carries = isinstance(parts.trunk, Before) and _width(parts) < grid.shape[1]
    found = None if carries else factor(rest, grid, whole.module)
    trunk, tail = nn.Sequential(whole.standardise, parts.trunk), parts.middle
    if found is None:
        tail = ToPoint(rest) if tail is None else nn.Sequential(tail, ToPoint(rest))
    pooling, projection = found or (GAP(), None)
    behind = tuple(_behind(whole, parts.layer))
    size = size_of(parts.activations)
    return Cut(trunk, tail, pooling, projection, parts.layer, "own", size, behind, whole.probes)


def pool_last(whole: Whole, parts: Parts | None, layer: str | None) -> Cut:
    """The last grid or tokens for any pooling; `parts` are those of torch.fx, None without."""
    if parts is not None:
        trunk = nn.Sequential(whole.standardise, parts.trunk)
        return Cut(trunk, parts.middle, GAP(), None, parts.layer, NAMED["pooled"])
    name = next(iter(last_layers(whole)), None)
    if name is None or layer is not None:
        raise UserError(
            f"{whole.name} has no grid that can be pooled behind '{layer or 'any layer'}': leave the layer and "
            "embedding as they are by default"
        )
    layout = whole.layout(name)
    assert layout is not None
    before = Before(whole.module, Place(name, layout.dropping), Seen(), whole.read)
    return Cut(nn.Sequential(whole.standardise, before), None, GAP(), None, name, NAMED["pooled"])


def trace(whole: Whole, layer: str | None, features: str | None = None) -> Parts | None:
    """The parts by torch.fx; None where it cannot trace the module, or there is no grid with channels first."""
    try:
        graph = Graph(whole.module, [whole.standardise(images) for images in whole.images])
    except UserError:
        return None
    end = graph.last(features, positions=True)
    start = end if layer is None else graph.last(layer)
    if start is None or end is None or graph.order[end] < graph.order[start]:
        return None
    if any(layout is None or layout.kind != "first" for layout in map(graph.layout, {start, end})):
        return None
    try:
        trunk, middle, rest = graph.part(None, start), graph.part(start, end), graph.part(end, None)
    except UserError:
        if layer is not None:
            raise
        return None
    read = Read(rest, whole.read)
    images, own = whole.probes[0]
    with torch.no_grad():
        activations = trunk(whole.standardise(images))
        if not distance_of(unit(read(middle(activations))), own) <= TOLERANCE:
            return None
    name = graph.paths.get(start) or start.name
    return Parts(trunk, read, name, activations, None if start is end else middle)


def _behind(whole: Whole, layer: str) -> Iterator[str]:
    """Modules with weights of their own that run after the layer."""
    names = whole.names
    for name in names[names.index(layer) + 1 :] if layer in names else ():
        module = whole.module.get_submodule(name)
        if any(True for _ in module.parameters(recurse=False)) and not layer.startswith(name):
            yield name


def split_at(whole: Whole, layer: str) -> Parts:
    """Split a module at a layer that the user chose."""
    known = dict(whole.module.named_modules())
    if layer not in known or layer not in whole.names:
        tops = ", ".join(name for name in whole.names if name and "." not in name)
        raise UserError(f"{whole.name} runs no layer '{layer}'; its top layers: {tops}")
    (shape, *more), *_ = whole.shapes(layer)
    if more:
        raise UserError(f"the layer '{layer}' of {whole.name} runs several times: choose one that runs once")
    layout = whole.layout(layer)
    if (1, 1) in (shape[1:3], shape[2:4]):
        raise UserError(
            f"the layer '{layer}' of {whole.name} returns {tuple(shape)}, a grid of 1 x 1 without positions to show: "
            "choose a layer before the pooling, or none for the last one"
        )
    if layout is None:
        raise UserError(
            f"the layer '{layer}' of {whole.name} returns {tuple(shape) or 'several tensors'}, which is "
            "no grid and no tokens: choose an earlier layer, or none for the last one"
        )
    parts, distance = try_place(whole, Place(layer, layout))
    if parts is None:
        raise UserError(
            f"{whole.name} cannot be cut at '{layer}': its embedding also depends on paths around this layer (it "
            f"differs by {distance:.2g} on unit vectors): choose a layer through which all paths lead"
        )
    if not _keeps_order(whole, parts):
        raise UserError(
            f"{whole.name} cannot be cut at '{layer}': its positions are not in the order of the image (the change of "
            "a part of the image changes others more): choose an earlier layer"
        )
    return parts


def split_last(whole: Whole) -> Parts:
    """Split a module at the last grid or tokens on which its embedding depends alone."""
    fallback, count = None, 0
    tried: list[str] = []
    for name in last_layers(whole):
        if name.startswith(tuple(tried)):  # what a layer around it does not carry, this one does not carry either
            continue
        if count == MOST_TRIED:
            break
        count += 1
        layout = whole.layout(name)
        assert layout is not None
        found, _ = try_place(whole, Place(name, layout))
        if found is None:
            tried.append(f"{name}.")
        if found is None or not _reads_positions(found) or not _keeps_order(whole, found):
            continue
        if not _is_scale_free(found):
            return found
        norm = next(iter(_norms_after(whole, name)), None)
        normed = None if norm is None else try_place(whole, Place(name, layout, norm))[0]
        if normed is not None and _reads_positions(normed):
            return normed
        fallback = fallback or found
    if fallback is None:
        compiled = [name for name, child in whole.module.named_modules() if is_compiled(child)]
        if compiled:
            raise UserError(
                f"{whole.name} cannot be cut: its part '{compiled[0]}' is made by TorchScript; put the original module "
                "in its place"
            )
        raise UserError(
            f"{whole.name} cannot be cut: no layer with a grid or tokens carries all of its embedding; name one as "
            "layer=, or assemble the model with sfam_bench.models.build"
        )
    return fallback


def last_layers(whole: Whole) -> list[str]:
    """Layers with a grid or tokens, the last one first, without those inside of pooling layers."""
    pools = [name for name, child in whole.module.named_modules() if "Pool" in type(child).__name__ and name]
    inside = tuple(f"{name}." for name in pools)
    names = [name for name in whole.names if name and not name.startswith(inside)]
    plain = {name for name, child in whole.module.named_modules() if type(child).__name__ in UNCHANGED}
    return [name for name in reversed(names) if name not in plain and whole.layout(name) is not None]


def _norms_after(whole: Whole, layer: str) -> Iterator[str]:
    """Norms that run after a layer and before its tokens are replaced, with as many of them."""
    names = whole.names
    width = whole.shapes(layer)[0][0][-1]
    for name in names[names.index(layer) + 1 :]:
        shape = whole.shapes(name)[0][-1]
        if "norm" in type(whole.module.get_submodule(name)).__name__.lower() and len(shape) == 3 and shape[-1] == width:
            yield name


def try_place(whole: Whole, place: Place) -> tuple[Parts | None, float]:
    """The module in two parts at a place, or None where they are not the whole; and their distance from it."""
    seen = Seen()
    before, behind = Before(whole.module, place, seen, whole.read), Behind(whole.module, place, seen, whole.read)

    def run(images: Tensor) -> Tensor:
        activations = before(images)
        number = next(i for i, probe in enumerate(whole.images) if probe.shape == images.shape)
        seen.earlier[tuple(activations.shape)] = outermost(whole.calls[number], place.layer)
        return behind(activations)

    try:
        distance = whole.distance(run, 1)
        if distance <= TOLERANCE:
            distance = whole.distance(run)
    except (*FAILURES, LookupError, UserError):  # on values of another place
        return None, float("inf")
    if not distance <= TOLERANCE:
        return None, distance
    with torch.no_grad():
        activations = before(whole.standardise(whole.images[0]))
    parts = Parts(before, behind, place.layer, activations)
    if place.norm is None and place.layout.carried and place.layout.prefix:
        derivative = _derivative(parts).abs()
        width = activations.shape[1] // (1 + place.layout.prefix)
        if derivative[:, width:].max() <= UNUSED * derivative.max():
            alone, _ = try_place(whole, Place(place.layer, place.layout.dropping))
            return alone or parts, distance
    return parts, distance


def _derivative(parts: Parts) -> Tensor:
    """The derivative of a random linear form of the embedding before L2 by the activations."""
    with torch.enable_grad(), WithoutL2():
        leaf = parts.activations.detach().clone().requires_grad_()
        embeddings = parts.rest(leaf)
        weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        (found,) = torch.autograd.grad((embeddings * weights.to(embeddings)).sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def _reads_positions(parts: Parts) -> bool:
    """Whether the embedding depends on the positions, not on prefix tokens alone."""
    derivative = _derivative(parts).abs()
    return bool(derivative[:, : _width(parts)].max() > UNUSED * derivative.max())


def _is_scale_free(parts: Parts) -> bool:
    """Whether a norm behind the layer makes the shares of each position, A * dA over channels, sum to zero."""
    shares = (parts.activations * _derivative(parts))[:, : _width(parts)]
    return bool(shares.sum(dim=1).abs().sum() < SCALE_FREE * shares.abs().sum())


def _keeps_order(whole: Whole, parts: Parts) -> bool:
    """Whether the change of an image in one place changes the activations most near that place."""
    images = whole.images[0][:1]
    (height, width), (rows, cols) = size_of(images), size_of(parts.activations)
    places = [(row, col) for row in (rows // 4, 3 * rows // 4) for col in (cols // 4, 3 * cols // 4)]
    changed = images.repeat(len(places), 1, 1, 1)
    for image, (row, col) in zip(changed, places, strict=True):
        cell = image[
            :,
            row * height // rows : max((row + 1) * height // rows, row * height // rows + 1),
            col * width // cols : max((col + 1) * width // cols, col * width // cols + 1),
        ]
        cell.copy_(1 - cell.round())
    with torch.no_grad():
        moved = parts.trunk(whole.standardise(changed)) - parts.trunk(whole.standardise(images))
    peaks = moved[:, : _width(parts)].abs().sum(dim=1).flatten(1).argmax(dim=1).tolist()
    return all(
        abs(peak // cols - row) <= max(1, rows // 4) and abs(peak % cols - col) <= max(1, cols // 4)
        for peak, (row, col) in zip(peaks, places, strict=True)
    )


def _width(parts: Parts) -> int:
    """The number of channels of the positions, without those of carried tokens."""
    channels = parts.activations.shape[1]
    if not isinstance(parts.trunk, Before):
        return channels
    place = parts.trunk.place
    carried = place.layout.prefix * (place.layout.carried + (place.norm is not None))
    return channels // (1 + carried)
