"""A module run in two parts: up to a layer, and from there with the layer's output put in place; without torch.fx."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import record_calls, run_part
from sfam_bench.core.types import Activations, Images
from sfam_bench.models.layouts import Layout, Size, size_of


@dataclass(frozen=True)
class Form:
    """An output of a module that holds one tensor, at `index` of its leaves."""

    leaves: list[Any]
    index: int
    spec: TreeSpec

    @classmethod
    def of(cls, output: Any) -> tuple["Form", Tensor]:
        """The form of an output, without its tensor, and the tensor."""
        leaves, spec = tree_flatten(output)
        (index,) = (i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        return cls([*leaves[:index], None, *leaves[index + 1 :]], index, spec), leaves[index]

    def fill(self, tensor: Tensor) -> Any:
        """The output with another tensor."""
        return tree_unflatten([*self.leaves[: self.index], tensor, *self.leaves[self.index + 1 :]], self.spec)


@dataclass
class Seen:
    """What a run of the first part leaves for the second one: by grid, the size of images and the form of outputs."""

    sizes: dict[Size, Size] = field(default_factory=dict)
    forms: dict[Size, list["Form"]] = field(default_factory=dict)
    earlier: dict[tuple[int, ...], dict[str, list[Any]]] = field(default_factory=dict)  # by shape of activations


@dataclass(frozen=True)
class Place:
    """A layer, and where `norm` is set the layer that normalises its output at once.

    With a norm the activations are the norm's output, and the layer's own prefix tokens are carried beside it: its
    other tokens are then not used except through the norm.
    """

    layer: str
    layout: Layout
    norm: str | None = None

    @property
    def names(self) -> list[str]:
        """The layers whose outputs are replaced, in the order in which they run."""
        return [self.layer, *([self.norm] if self.norm else [])]


class Before(nn.Module):
    """A module up to a place: from images to activations (batch, channels, rows, cols)."""

    def __init__(self, module: nn.Module, place: Place, seen: Seen, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.uncut = module
        self.place = place
        self.seen = seen
        self.read = read  # of attention methods, which run the module from other layers

    def forward(self, images: Images) -> Activations:
        layers = [self.uncut.get_submodule(name) for name in self.place.names]
        size = size_of(images)
        forms, values = zip(*map(Form.of, run_part(self.uncut, images, layers)), strict=True)
        layout = self.place.layout
        more = values[0][:, : layout.prefix] if self.place.norm else None
        activations = layout.to_grid(values[-1], size, more)
        grid = size_of(activations)
        self.seen.sizes[grid], self.seen.forms[grid] = size, [*forms]
        return activations.contiguous()


class Behind(nn.Module):
    """A module behind a place: from activations to the embedding before L2, (batch, dims).

    The module is run on grey images with its own layer's output replaced. Modules that run before the layer are
    skipped: their outputs are zeros in the shapes of one run, which is repeated for every new shape of activations.
    Those without weights, such as rotary positions, are run on the grey images.
    """

    def __init__(self, module: nn.Module, place: Place, seen: Seen, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.__dict__["uncut"] = module  # its weights belong to `Before`
        self.place = place
        self.seen = seen
        self.read = read

    def forward(self, activations: Activations) -> Tensor:
        uncut: nn.Module = self.__dict__["uncut"]
        place, layout = self.place, self.place.layout
        grid = size_of(activations)
        if grid not in self.seen.sizes:
            raise UserError(f"a grid of {grid[0]} x {grid[1]} is not known: run the trunk on images of this size first")
        value, further = layout.from_grid(activations, layout.prefix if place.norm else 0)
        values = [value]
        if place.norm:
            patches = value[:, layout.prefix :]
            values.insert(0, torch.cat([further, torch.zeros_like(patches)], dim=1))
        put = [
            (uncut.get_submodule(name), form.fill(one))
            for name, one, form in zip(place.names, values, self.seen.forms[grid], strict=True)
        ]
        grey = activations.new_full((len(activations), 3, *self.seen.sizes[grid]), 0.5)
        return self.read(run_part(uncut, grey, (), put, self._earlier(uncut, grey, activations)))

    def _earlier(self, uncut: nn.Module, grey: Images, activations: Activations) -> dict[nn.Module, list[Any]]:
        """Zeros in the shape of the outputs of modules with weights that run before the layer, by module."""
        key = tuple(activations.shape)
        if key not in self.seen.earlier:
            with torch.no_grad():
                self.seen.earlier[key] = record_earlier(uncut, grey, self.place.layer)
        earlier = [(uncut.get_submodule(name), outputs) for name, outputs in self.seen.earlier[key].items()]
        return {
            module: [zeros(one, activations) for one in outputs]
            for module, outputs in earlier
            if next(module.parameters(), None) is not None
        }


def record_earlier(module: nn.Module, images: Images, layer: str) -> dict[str, list[Any]]:
    """The outputs of outermost modules that run before `layer` and do not contain it, with tensors as their shapes."""
    with record_calls(module) as calls:
        run_part(module, images, [module.get_submodule(layer)])
    return outermost([(name, shapes_of(output)) for name, output in calls], layer)


def outermost(calls: list[tuple[str, Any]], layer: str) -> dict[str, list[Any]]:
    """The outputs of those calls before `layer` that are in no other one and do not contain the layer, by module."""
    names = [name for name, _ in calls]
    calls = calls[: names.index(layer)] if layer in names else calls
    holding = {layer, "", *(layer[:i] for i, letter in enumerate(layer) if letter == ".")}
    free = {name for name, _ in calls} - holding
    found: dict[str, list[Any]] = {}
    for name, output in calls:
        above = (name[:i] for i, letter in enumerate(name) if letter == ".")
        if name in free and not free.intersection(above):
            found.setdefault(name, []).append(output)
    return found


@dataclass(frozen=True)
class Shape:
    """Shape and type of a tensor."""

    shape: torch.Size
    dtype: torch.dtype


def shapes_of(output: Any) -> Any:
    """An output of a module with its tensors replaced by their shapes and types."""
    leaves, spec = tree_flatten(output)
    return tree_unflatten([Shape(x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves], spec)


def zeros(output: Any, like: Tensor) -> Any:
    """The output of `shapes_of` with zeros in place of its shapes, on the device of `like`."""
    leaves, spec = tree_flatten(output)
    made = [like.new_zeros(x.shape, dtype=x.dtype) if isinstance(x, Shape) else x for x in leaves]
    return tree_unflatten(made, spec)
