"""Projections after pooling; lazy, so that configs do not need the number of channels."""

from torch import nn

from sfam_bench.core.errors import check_range
from sfam_bench.core.ranges import Count


def linear(dims: Count = 512, bias: bool = True, neck: bool = False) -> nn.Sequential:
    """A linear head of `dims` embedding dimensions, after a batch-norm neck if `neck` (BNNeck; Luo et al., 2019)."""
    check_range("head.dims", dims, Count)
    return nn.Sequential(*([nn.LazyBatchNorm1d()] if neck else []), nn.LazyLinear(dims, bias=bias))


def neck() -> nn.Sequential:
    """A batch-norm neck alone."""
    return nn.Sequential(nn.LazyBatchNorm1d())


def mlp(dims: Count = 512, hidden: Count = 512, neck: bool = False) -> nn.Sequential:
    """Linear, ReLU, linear; not affine, so that pull-backs through it are local and leave a residual."""
    check_range("head.dims", dims, Count)
    check_range("head.hidden", hidden, Count)
    return nn.Sequential(
        *([nn.LazyBatchNorm1d()] if neck else []), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, dims)
    )


def is_affine(projection: nn.Module) -> bool:
    """Whether a head is affine in eval mode; batch norm without running statistics is not.

    A network's own projection states it (`FromPooled.affine`).
    """
    if type(projection) is nn.Sequential:
        return all(is_affine(layer) for layer in projection)
    if type(projection) is nn.BatchNorm1d:
        return projection.running_mean is not None
    return type(projection) in (nn.Identity, nn.Linear) or getattr(projection, "affine", None) is True
