"""Where a curve is sampled, and the quadrature weights of its samples."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count


@runtime_checkable
class Steps(Hashable, Protocol):
    """Where a curve is sampled, and the quadrature weights of its samples."""

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        """Counts of changed pixels, from 0 to `pixels`, and their quadrature weights (sum 1)."""
        ...


@dataclass(frozen=True)
class Trapezoid(Checked):
    """Equal steps; trapezoid rule over the actual fractions."""

    intervals: Count = 224

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        counts = np.unique(np.rint(np.linspace(0, pixels, self.intervals + 1)).astype(int))
        return counts.tolist(), trapezoids(counts)


@dataclass(frozen=True)
class Midpoint(Checked):
    """Steps in the middle of equal intervals; midpoint rule, corrected by the end points, which need no pass.

    The correction is the first term of Euler-Maclaurin, with slopes from each end and the step next to it. No rule with
    as many points was clearly more exact on curves of photos (docs/performance.md).
    """

    intervals: Count = 20

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        between = np.rint((np.arange(self.intervals) + 0.5) / self.intervals * pixels).astype(int)
        weights = np.full(self.intervals + 2, 1 / self.intervals)
        weights[[0, -1]] = 1 / 12 / self.intervals
        np.subtract.at(weights, [1, -2], 1 / 12 / self.intervals)  # of one interval, these are the same step
        return [0, *between.tolist(), pixels], weights.tolist()


@dataclass(frozen=True)
class Stride(Checked):
    """`pixels` pixels for each step, the last one the rest; equal weights, as in RISE's evaluation code."""

    pixels: Count = 224

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        counts = [*range(0, pixels, self.pixels), pixels]
        return counts, trapezoids(np.arange(len(counts)))


@dataclass(frozen=True)
class Chunks(Checked):
    """At most `intervals` steps of equally many pixels, the last one the rest; weights by fractions (torchcam)."""

    intervals: Count = 20

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        counts = [*range(0, pixels, -(-pixels // self.intervals)), pixels]
        return counts, trapezoids(np.array(counts))


def trapezoids(places: np.ndarray) -> list[float]:
    """Weights of the trapezoid rule over increasing places, sum 1."""
    widths = np.diff(places) / (places[-1] - places[0])
    return ((np.append(widths, 0) + np.append(0, widths)) / 2).tolist()


def format_steps(steps: Steps) -> str:
    """The class of steps and its numbers, as "Midpoint 20"."""
    return " ".join([type(steps).__name__, *map(str, vars(steps).values())])


@lru_cache
def sample_steps(steps: Steps, pixels: int) -> tuple[list[int], list[float]]:
    """The steps for an image of `pixels` pixels, computed once."""
    return steps(pixels)
