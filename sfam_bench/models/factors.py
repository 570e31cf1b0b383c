"""The part of a network behind its last grid, as a pooling and a projection where it is one."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Activations, Embeddings, Pooled
from sfam_bench.models.cuts import TOLERANCE
from sfam_bench.models.layouts import Size, size_of
from sfam_bench.models.outputs import Reader, WithoutL2
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError)  # of a network on an unfit input

log = logging.getLogger(__name__)


class Read(nn.Module):
    """The embedding in the output of a part of a network."""

    def __init__(self, rest: nn.Module, read: Reader) -> None:
        super().__init__()
        self.rest = rest
        self.read = read

    def forward(self, activations: Activations) -> Embeddings:
        return self.read(self.rest(activations))


class ToPoint(nn.Module):
    """The embedding of a part of a network as a grid of one position, which a mean leaves as it is."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, activations: Activations) -> Tensor:
        embeddings: Tensor = self.rest(activations)
        return embeddings[:, :, None, None]


class Unnormalised(nn.Module):
    """A part of a network without the L2 at its end, which the embedder applies."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, activations: Activations) -> Embeddings:
        with WithoutL2():
            embeddings: Embeddings = self.rest(activations)
        return embeddings


def without_l2(rest: nn.Module, grid: Activations, name: str) -> nn.Module:
    """The part behind the cut, without an L2 at its end; an L2 that cannot be left out is logged.

    Derivatives by activations of vectors of fixed length sum to zero, which makes maps of their small differences.
    """
    bare = Unnormalised(rest)
    with torch.no_grad():
        own, found = rest(grid), bare(grid)
    same = torch.allclose(unit(own), unit(found), atol=TOLERANCE / 10)
    chosen, embeddings = (bare, found) if same and not torch.equal(own, found) else (rest, own)
    lengths = embeddings.norm(dim=1)
    if torch.allclose(lengths, torch.ones_like(lengths), atol=TOLERANCE):
        log.warning(
            "%s returns unit vectors by an L2 that is not recognised, so that maps of linear methods are nearly zero: "
            "use torch.nn.functional.normalize, or return the embedding before L2",
            name,
        )
    return chosen


class FromPooled(nn.Module):
    """What a network computes of pooled features: its part behind the grid, on grids that are constant.

    Attributes:
        affine: whether it is affine, measured when the model is cut.
    """

    def __init__(self, rest: nn.Module, size: Size, scale: float) -> None:
        super().__init__()
        self.rest = rest
        self.size = size
        self.scale = scale
        self.affine = False

    def forward(self, pooled: Pooled) -> Embeddings:
        grid = (pooled * self.scale)[:, :, None, None].expand(-1, -1, *self.size)
        embeddings: Embeddings = self.rest(grid)
        return embeddings


def factor(rest: nn.Module, activations: Activations, module: nn.Module) -> tuple[nn.Module, nn.Module | None] | None:
    """The pooling and the projection that a part of a network consists of; None for other poolings.

    A part reads its grid through a pooling alone if it computes the same of a constant grid with the same pooled value;
    that is tried on random activations, with mean and spread of each channel as given, and with ten times the spread:
    in an untrained network an attention over similar tokens is nearly their mean. They are not negative where the given
    ones are not: powers of negative numbers are NaN.
    """
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(activations.shape, generator=draw).to(activations)
    mean = activations.mean(dim=(0, 2, 3), keepdim=True)
    spread = mean.abs() + activations.std(dim=(0, 2, 3), keepdim=True) + 1e-3 * activations.std()
    varied = torch.cat([mean + times * spread * noise for times in (1, 10)])
    varied = _within_range(varied, activations)
    size = size_of(activations)
    with torch.no_grad():
        expected = rest(varied)
        if not expected.isfinite().all():
            return None
        for pooling, scale in _poolings(module):
            try:
                pooled = pooling.to(activations.device)(varied)
                made = next(
                    projection
                    for side in ((1, 1), size)
                    if _agrees(projection := FromPooled(rest, side, scale), pooled, expected)
                )
            except StopIteration:
                continue
            if pooled.shape == expected.shape and torch.allclose(made(pooled), pooled, rtol=1e-5, atol=1e-6):
                return pooling, None
            made.affine = _is_affine(made, pooled)
            return pooling, made
    return None


def _poolings(module: nn.Module) -> Iterator[tuple[nn.Module, float]]:
    """Poolings to try, each with the value of a constant grid that it maps to one."""
    yield from ((GAP(), 1.0), (GMP(), 1.0), (GAPGMP(), 0.5))
    for child in module.modules():
        power = getattr(child, "p", None)
        named = "gem" in type(child).__name__.lower() and isinstance(power, float | int | Tensor)
        if named or isinstance(power, nn.Parameter):  # a learned one may be used by the network itself
            found = GeM(float(torch.as_tensor(power).flatten()[0]), float(getattr(child, "eps", 1e-6)))
            if isinstance(power, nn.Parameter) and power.numel() == 1:
                found.p = power  # which may be trained further
            yield found, 1.0
    yield GeM(), 1.0


def _within_range(drawn: Tensor, given: Tensor) -> Tensor:
    """Random values without negative ones, where the given values have none."""
    return drawn.abs() if given.min() >= 0 else drawn


def _agrees(projection: nn.Module, pooled: Pooled, expected: Embeddings) -> bool:
    try:
        found = projection(pooled)
    except (*FAILURES, LookupError, UserError):  # a part that reads grids of one size alone
        return False
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * float(expected.std())
    )


def _is_affine(projection: nn.Module, pooled: Pooled) -> bool:
    """Whether the projection of the middle of two points is the middle of their projections, far apart too."""
    draw = torch.Generator().manual_seed(1)
    far = pooled + 10 * (pooled.std() + 1e-3) * torch.randn(pooled.shape, generator=draw).to(pooled)
    far = _within_range(far, pooled)
    middle, ends = projection((pooled + far) / 2), (projection(pooled) + projection(far)) / 2
    return torch.allclose(middle, ends, rtol=1e-4, atol=1e-5 * float(ends.abs().max()))
