"""A module with test images and its own embeddings of them, by which cuts of it are judged."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.hooks import record_calls
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Images
from sfam_bench.models.cuts import STEPS, TOLERANCE, Probe, check_alone, distance_of, probe_images
from sfam_bench.models.layouts import Layout, Size, size_of
from sfam_bench.models.outputs import Where, reader_of
from sfam_bench.models.splice import Shape, shapes_of


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is of TorchScript, or holds a part of torch.export, whose mode cannot be set."""
    exported = (isinstance(part, torch.fx.GraphModule) and "train" in vars(part) for part in module.modules())
    return isinstance(module, torch.jit.ScriptModule) or any(exported)


class Whole:
    """A module with probes: images of one or two sizes, and its embeddings of them.

    Args:
        module: from images (batch, 3, rows, cols), standardised, to anything with an embedding in it.
        size: rows and cols of the first probe; the second one is wider, where the module accepts that.
        standardise: from images in [0, 1] to what the module reads.
        read: where the embedding is in the module's output; None to find it.
        name: of the module, in messages.
    """

    def __init__(
        self,
        module: nn.Module,
        size: Size,
        standardise: nn.Module,
        read: Where = None,
        name: str = "",
    ) -> None:
        self.module, self.standardise, self.size = module, standardise, size
        self.name = name or type(module).__name__
        weights = next((w for w in module.parameters() if w.is_floating_point()), torch.zeros(()))
        self.images = [probe_images(size, weights.device, weights.dtype)]
        output, calls = self._run(self.images[0])
        self.read = reader_of(output, self.name, read)
        self.embeddings = [self.read(output)]
        self.calls = [calls]
        for step in STEPS:
            wider = probe_images((size[0], size[1] + step), weights.device, weights.dtype)
            try:
                output, calls = self._run(wider)
            except Exception:  # networks for one size raise whatever they raise
                continue
            self.images.append(wider)
            self.embeddings.append(self.read(output))
            self.calls.append(calls)
            break
        self._check()

    def _run(self, images: Images) -> tuple[Any, list[tuple[str, Any]]]:
        """The output, and name and shapes of the output of each call of a module, in the order in which they return."""
        with torch.no_grad(), record_calls(self.module) as calls:
            try:
                output = self.module(self.standardise(images.clone()))
            except Exception as error:
                if len(getattr(self, "embeddings", ())):
                    raise
                raise UserError(
                    f"{self.name} cannot read images (2, 3, {images.shape[-2]}, {images.shape[-1]}): "
                    f"{first_line(error, 160)}; give image_size="
                ) from error
        return output, [(name, shapes_of(made)) for name, made in calls]

    @property
    def names(self) -> list[str]:
        """Names of the modules that run, in the order in which they first return."""
        return list(dict.fromkeys(name for name, _ in self.calls[0]))

    def shapes(self, name: str) -> list[list[torch.Size]]:
        """For each probe the shapes of a module's outputs; empty for an output that does not hold one tensor."""
        found = []
        for calls in self.calls:
            tensors = [[x for x in tree_leaves(made) if isinstance(x, Shape)] for of, made in calls if of == name]
            found.append([leaves[0].shape if len(leaves) == 1 else torch.Size() for leaves in tensors])
        return found

    def _check(self) -> None:
        first = self.embeddings[0]
        if not first.isfinite().all() or not first.abs().sum(dim=1).all():
            raise UserError(f"{self.name} returns zeros, NaN or infinity for two test images: check its weights")
        images = self.images[0]
        check_alone(lambda some: self.read(self.module(self.standardise(some))), images, self.name, first)
        if torch.allclose(unit(first)[0], unit(first)[1], atol=1e-7):
            raise UserError(f"{self.name} returns the same embedding for two different images: check its weights")

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The images in [0, 1] and the module's embeddings of them, of length 1."""
        return tuple(Probe(x, unit(e)) for x, e in zip(self.images, self.embeddings, strict=True))

    def has_length(self, length: float) -> bool:
        """Whether all embeddings of the first probe have this length."""
        lengths = self.embeddings[0].norm(dim=1)
        return torch.allclose(lengths, torch.full_like(lengths, length), rtol=TOLERANCE)

    @property
    def sizes(self) -> list[Size]:
        """Rows and cols of the probes."""
        return [size_of(images) for images in self.images]

    def layout(self, name: str) -> Layout | None:
        """The layout of the output of a module that runs once; None where it has no positions."""
        shapes = self.shapes(name)
        if any(len(found) != 1 or len(found[0]) < 3 or found[0][0] != 2 for found in shapes):
            return None
        return Layout.find([(size, found[0]) for size, found in zip(self.sizes, shapes, strict=True)])

    def distance(self, function: Callable[[Tensor], Tensor], most: int | None = None) -> float:
        """The largest difference of `function`, from standardised images, to the module's embeddings on unit vectors.

        `most` is the number of probes to compare.
        """
        with torch.no_grad():
            return max(distance_of(unit(function(self.standardise(x))), own) for x, own in self.probes[:most])
