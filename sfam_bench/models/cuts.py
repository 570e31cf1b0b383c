"""A network cut into a trunk, a pooling and a projection, and its comparison with its own forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Embeddings, Images
from sfam_bench.models.layouts import Size
from sfam_bench.models.outputs import Reader
from sfam_bench.models.poolings import GAP

TOLERANCE = 1e-4  # largest difference of unit vectors between a cut model and the network's own forward pass
STEPS = (32, 28, 24, 16)  # px by which the second probe is wider
SMALL = 0.01  # largest weight of a layer that has no visible influence


class Probe(NamedTuple):
    """Images and the network's own embeddings of them, of length 1."""

    images: Images
    embeddings: Embeddings


OtherEmbeddings: TypeAlias = Float[Tensor, "batch other_dims"]


@dataclass(frozen=True)
class Cut:
    """A network in parts: activations = trunk(images), embedding = projection(pooling(tail(activations))).

    Attributes:
        trunk: from images to activations (batch, channels, rows, cols).
        tail: layers between the cut and the pooling; None for none.
        pooling: the network's own pooling; None where it is not known.
        projection: what the network computes of pooled features; None for nothing.
        layer: the layer at the cut.
        grid: rows and cols of the activations of the first probe, where they were computed.
        embedding: what the embedding is, for tables: "own" or the user's choice.
        behind: names of the modules with weights that `pooling` and `projection` stand for.
        probes: images with the network's own embeddings, with which every model of this cut is compared.

    Iterating gives trunk and tail.
    """

    trunk: nn.Module
    tail: nn.Module | None = None
    pooling: nn.Module | None = None
    projection: nn.Module | None = None
    layer: str = ""
    embedding: str = "own"
    grid: Size = (0, 0)
    behind: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.trunk, self.tail))


def embed_parts(cut: Cut, images: Images) -> Embeddings:
    """The embedding that the parts of a cut compute of images in [0, 1], of length 1."""
    activations = cut.trunk(images)
    pooling = cut.pooling or GAP()
    pooled = pooling(activations if cut.tail is None else cut.tail(activations))
    return unit(pooled if cut.projection is None else cut.projection(pooled))


def verify(cut: Cut, probes: tuple[Probe, ...], name: str) -> Cut:
    """The cut with these probes.

    Raises:
        UserError: if its parts do not compute the network's own embeddings of them.
    """
    with torch.no_grad():
        distance = max((distance_of(embed_parts(cut, x), own) for x, own in probes), default=0.0)
    if not distance <= TOLERANCE:
        raise UserError(
            f"{name} cannot be cut at '{cut.layer}': the parts differ from the network's own embedding by "
            f"{distance:.2g} on unit vectors; choose another layer, or the pooled last grid by embedding=pooled"
        )
    return replace(cut, probes=probes)


def distance_of(found: Embeddings, own: OtherEmbeddings) -> float:
    """The largest difference of two batches of unit vectors; infinite where one is NaN or of other dimensions."""
    if found.shape != own.shape:
        return float("inf")
    return float((found - own).detach().abs().max().nan_to_num(nan=torch.inf))


def make_probes(
    module: nn.Module, size: Size, standardise: nn.Module, read: Callable[[Any], Tensor] | None = None
) -> tuple[Probe, ...]:
    """Images of one or two sizes with the module's own embeddings; the second one is wider, where that is accepted."""
    weights = next((w for w in module.parameters() if w.is_floating_point()), torch.zeros(()))
    made = []
    for step in (0, *STEPS):
        images = probe_images((size[0], size[1] + step), weights.device, weights.dtype)
        with torch.no_grad():
            try:
                output = module(standardise(images))
            except Exception:  # networks for images of one size raise whatever they raise
                if not step:
                    raise
                continue
        made.append(Probe(images, unit((read or Reader(None))(output))))
        if step:
            break
    return tuple(made)


def probe_images(size: Size, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Images:
    """Two images in [0, 1], (2, 3, rows, cols): a smooth one, as photos are, and noise; always the same."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 7, generator=draw)
    smooth = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return torch.cat([smooth, torch.rand(1, 3, *size, generator=draw)]).to(device, dtype)


def check_alone(
    embed: Callable[[Images], Embeddings], images: Images, name: str, own: Embeddings | None = None
) -> None:
    """Check that the embedding of an image depends on that image alone; `own` are those of the images, if known.

    Raises:
        UserError: if embeddings change from call to call, or with the other images of a batch.
    """
    with torch.no_grad():
        own, again = embed(images.clone()) if own is None else own, embed(images.clone())
        if not own.isfinite().all():
            return  # which is refused for that
        if distance_of(unit(own), unit(again)) > TOLERANCE:
            raise UserError(
                f"{name} returns another embedding of the same images each time: give it without dropout or noise that "
                "is active in eval mode"
            )
        try:
            why, far = "", distance_of(unit(own[:1]), unit(embed(images[:1].clone())))
        except Exception as error:  # such as batch norm over one value
            why, far = f": {first_line(error, 160)}", float("inf")
    if far > TOLERANCE:
        raise UserError(
            f"{name} embeds an image otherwise when it is alone than beside another one{why}: give it without "
            "statistics over the batch, such as batch norm without running statistics"
        )


@contextmanager
def enlarged(module: nn.Module) -> Iterator[bool]:
    """Set weights that are all nearly zero to random ones of usual size while the block runs; yield whether any are.

    Layers whose scale starts near zero have no visible influence on the embedding of an untrained network, so that a
    cut which leaves one out would not be noticed until the network is trained.
    """
    draw = torch.Generator().manual_seed(0)
    small = [
        w for w in module.parameters() if w.is_floating_point() and w.numel() and float(w.detach().abs().max()) < SMALL
    ]
    kept = [weight.detach().clone() for weight in small]
    try:
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if any(weight is one for one in small) and not name.endswith("bias"):
                    noise = torch.randn(weight.shape, generator=draw)
                    scaled = 1 + 0.3 * noise if weight.squeeze().ndim < 2 else noise * weight[0].numel() ** -0.5
                    weight.copy_(scaled)
        yield bool(small)
    finally:
        with torch.no_grad():
            for weight, before in zip(small, kept, strict=True):
                weight.copy_(before)
