"""Gradient activation maps of several layers."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfam_bench.core.errors import Checked
from sfam_bench.core.hooks import record_outputs
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import score
from sfam_bench.core.types import Activations, Images, RawMaps
from sfam_bench.explainers.shared.forms import differentiating, gradients, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel

MEMORY = 2**28  # bytes of feature maps at once


@dataclass(frozen=True)
class GAM(Checked):
    """mean over last layers of sum_k relu(ds/dA_k) A_k; Barkan et al., CIKM 2021 (arXiv 2109.00951), reconstructed.

    The formula of one layer and the use of several last layers are the paper's; which layers and how they are scaled
    could not be read. Here they are the cut and, before it, the last feature map of each finer resolution that every
    path to the cut passes through; maps are enlarged to the finest of them.

    layers: number of layers, from the cut backwards; fewer where the trunk has fewer resolutions.
    scale: "max" divides each layer's map by its largest magnitude, so that layers have equal weight; "none" does not.
    relu: drop the negative part of each layer's map; without effect where the activations are rectified.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("with one layer and scale none it is LayerCAM",),
        degenerate=(
            "for a trunk with one resolution, as a vision transformer's, the cut is the only layer",
            "negative gradients are dropped in each layer",
        ),
    )

    layers: Count = 2
    scale: Literal["max", "none"] = "max"
    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        found = [self._layer_map(target_gradient(model, encoded), encoded.query.activations)]
        modules, size = earlier_layers(model, encoded.query.images[:1]) if self.layers > 1 else ([], 0)
        if modules:
            chunks = torch.arange(len(encoded.query.images), device=model.device).split(max(1, MEMORY // size))
            parts = [trunk_gradients(model, encoded, modules[: self.layers - 1], rows) for rows in chunks]
            found += [torch.cat([self._layer_map(*pair) for pair in layer]) for layer in zip(*parts, strict=True)]
        rows, cols = found[-1].shape[-2:]
        return torch.stack([upsample(maps, (rows, cols)) for maps in found]).mean(dim=0)

    def _layer_map(self, gradient: Activations, activations: Activations) -> RawMaps:
        maps = (gradient.relu() * activations).sum(dim=1)
        maps = maps.relu() if self.relu else maps
        return normalise(maps) if self.scale == "max" else maps


def trunk_gradients(
    model: SimilarityModel, encoded: Encoded, modules: list[nn.Module], rows: Int[Tensor, " some"]
) -> list[tuple[Activations, Activations]]:
    """The target's gradient by the outputs of `modules` in the trunk, and these outputs, for some of the pairs."""
    with differentiating(model):
        images = encoded.query.images[rows].clone().requires_grad_()
        with record_outputs(*modules) as outputs:
            embeddings = model(images)
        layers = [outputs[module] for module in modules]
        found = gradients(score(model.similarity, embeddings, encoded.terms, rows).sum(), layers)
        return [
            (as_grid(gradient, images), as_grid(layer.detach(), images))
            for gradient, layer in zip(found, layers, strict=True)
        ]


def earlier_layers(model: SimilarityModel, image: Images) -> tuple[list[nn.Module], int]:
    """The last module before the cut at each finer resolution, backwards, and the bytes of one image's feature maps.

    Only modules on every path from the image to the cut, so that none is a branch beside a skip connection.
    """
    with differentiating(model):
        image = image.clone().requires_grad_()
        with record_outputs(*model.trunk.modules()) as outputs:
            activations = model.run_trunk(image)
    nearest: dict[int, tuple[int, nn.Module]] = {}
    for module, output in outputs.items():
        if is_grid(output, image) and output.shape != image.shape:
            positions = as_grid(output, image)[0, 0].numel()
            steps = steps_between(activations, output, image)
            finer = positions > activations[0, 0].numel()
            if finer and steps is not None and steps < nearest.get(positions, (steps + 1, module))[0]:
                nearest[positions] = steps, module
    size = sum(output.nbytes for output in outputs.values() if isinstance(output, Tensor))
    return [nearest[positions][1] for positions in sorted(nearest)], size


def is_grid(output: object, image: Images) -> bool:
    """Whether an output is laid out like the image, its channels first or last."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    return fits(output.shape[2:], image.shape[2:]) or fits(output.shape[1:3], image.shape[2:])


def as_grid(output: Tensor, image: Images) -> Activations:
    """The output with its channels first."""
    return output if fits(output.shape[2:], image.shape[2:]) else output.permute(0, 3, 1, 2)


def fits(cells: tuple[int, ...], pixels: tuple[int, ...]) -> bool:
    """Whether one stride leads from `pixels` to `cells`, within two cells for padding and rounding."""
    least = max(pixel / (cell + 2) for pixel, cell in zip(pixels, cells, strict=True))
    most = min(pixel / max(cell - 2, 0.5) for pixel, cell in zip(pixels, cells, strict=True))
    return max(least, 1) <= most


def steps_between(later: Tensor, earlier: Tensor, image: Images) -> int | None:
    """The number of autograd steps between two results; None where a path from the image avoids the earlier one."""
    waiting, seen = [later.grad_fn], {None, earlier.grad_fn}
    while waiting:
        step = waiting.pop()
        if step in seen or step is None:
            continue
        if getattr(step, "variable", None) is image:
            return None
        seen.add(step)
        waiting += [before for before, _ in step.next_functions]
    return len(seen)
