"""Deletion and insertion: one walk between two images, in two directions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.polynomial.legendre import legvander
from torch import Tensor

from sfam_bench.baselines import Baseline, Mean
from sfam_bench.errors import UserError, check_choices
from sfam_bench.metrics.base import Explained, defined
from sfam_bench.types import Flags, Images, Maps, Scores

Ranks = Int[Tensor, "batch rows cols"]
Curves = Float[Tensor, "batch steps"]


@runtime_checkable
class Steps(Protocol):
    """Where a curve is sampled and how the samples make an area."""

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        """Counts of changed pixels, first 0 and last `pixels`, and their quadrature weights (sum 1)."""
        ...


@dataclass(frozen=True)
class Trapezoid:
    """Equal steps, area by trapezoids over the actual fractions."""

    intervals: int = 224

    def __post_init__(self) -> None:
        check_intervals(self.intervals)

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        counts = np.unique(np.rint(np.linspace(0, pixels, self.intervals + 1)).astype(int))
        widths = np.diff(counts) / pixels
        return counts.tolist(), ((np.append(widths, 0) + np.append(0, widths)) / 2).tolist()


@dataclass(frozen=True)
class ClenshawCurtis:
    """Steps at the extrema of a Chebyshev polynomial with interpolatory weights; Clenshaw, Curtis, 1960.

    Dense where a curve is steep (its ends); the area of 16 intervals is within 0.001 (median) of 224 equal steps.
    """

    intervals: int = 16

    def __post_init__(self) -> None:
        check_intervals(self.intervals)

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        nodes = -np.cos(np.pi * np.arange(self.intervals + 1) / self.intervals)
        moments = np.eye(1, self.intervals + 1)[0]  # only the constant polynomial has an integral
        weights = np.linalg.solve(legvander(nodes, self.intervals).T, moments)
        return np.rint((nodes + 1) / 2 * pixels).astype(int).tolist(), weights.tolist()


def check_intervals(intervals: int) -> None:
    """Raise UserError where a curve would have no point between its ends."""
    if intervals < 2:
        raise UserError(f"steps.intervals is {intervals}: a curve needs at least 2")


def ranks(maps: Maps) -> Ranks:
    """Place of each pixel in the order of falling relevance, 0 first; ties in raster order for every method."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def curve(
    score: Callable[[Images], Scores], start: Images, finish: Images, order: Ranks, counts: Sequence[int]
) -> Curves:
    """Scores on the way from `start` to `finish` as the `counts` first-ranked pixels are replaced."""
    return torch.stack([score(torch.where(order[:, None] < count, finish, start)) for count in counts], dim=1)


Direction = Literal["deletion", "insertion"]
BOTH: tuple[Direction, ...] = ("insertion", "deletion")
MEAN = Mean()
SIXTEEN = ClenshawCurtis(16)


@dataclass(frozen=True)
class Perturbation:
    """Area under (s - s_base) / (s_full - s_base) as pixels go (deletion) or come (insertion), most relevant first.

    After Petsiuk et al., BMVC 2018, on the target instead of a class; both end points are the same for every method.
    NaN where s_full - s_base < `min_range`, in units of the score: there is nothing to lose.
    """

    walk: Literal["deletion", "insertion", "insertion_minus_deletion"]
    baseline: Baseline = MEAN
    steps: Steps = SIXTEEN
    min_range: float = 0.05
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    def __call__(self, explained: Explained) -> Scores:
        full, base = explained.scene.full(), explained.scene.base(self.baseline)
        _, weights = self.steps(explained.maps[0].numel())
        walked = BOTH if self.walk == "insertion_minus_deletion" else (self.walk,)
        areas = [
            (self.scores(explained, direction) - base[:, None]) @ full.new_tensor(weights) / (full - base)
            for direction in walked
        ]
        value = areas[0] - areas[1] if len(walked) == 2 else areas[0]
        return defined(value, self.undefined(explained))

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        return {"zero_range": explained.scene.full() - explained.scene.base(self.baseline) < self.min_range}

    def scores(self, explained: Explained, direction: Direction) -> Curves:
        """The raw curve, both ends included; walked once for all metrics that share it."""

        def walk() -> Tensor:
            scene = explained.scene
            image = scene.encoded.query.images
            ends = [(image, scene.full()), (self.baseline(image), scene.base(self.baseline))]
            (start, first), (finish, last) = ends if direction == "deletion" else ends[::-1]
            order = explained.once("ranks", lambda: ranks(explained.maps))
            counts, _ = self.steps(explained.maps[0].numel())
            between = curve(scene.score, start, finish, order, counts[1:-1])
            return torch.cat([first[:, None], between, last[:, None]], dim=1)

        return explained.once((direction, self.baseline, self.steps), walk)
