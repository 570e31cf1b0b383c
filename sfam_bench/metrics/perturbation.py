"""Deletion and insertion: one walk between two images, in two directions."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.baselines import Baseline, Mean
from sfam_bench.engine.series import Replaced
from sfam_bench.errors import UserError, check_choices
from sfam_bench.metrics.base import NOT_DRAWN, Explained, defined
from sfam_bench.records import pair_seed
from sfam_bench.types import Flags, Scores

Curves: TypeAlias = Float[Tensor, "batch steps"]


@runtime_checkable
class Steps(Hashable, Protocol):
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
class Midpoint:
    """Steps in the middle of equal intervals; area by the midpoint rule, corrected by the end points, which are free.

    The correction is the first of Euler and Maclaurin's, with slopes from each end and the step next to it. No rule
    with as many points was clearly more exact on curves of photos (docs/performance.md).
    """

    intervals: int = 20

    def __post_init__(self) -> None:
        check_intervals(self.intervals)

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        between = np.rint((np.arange(self.intervals) + 0.5) / self.intervals * pixels).astype(int)
        weights = np.full(self.intervals + 2, 1 / self.intervals)
        weights[[0, -1]] = 1 / 12 / self.intervals
        weights[[1, -2]] -= 1 / 12 / self.intervals
        return [0, *between.tolist(), pixels], weights.tolist()


def check_intervals(intervals: int) -> None:
    """Raise UserError where a curve would have no point between its ends."""
    if intervals < 2:
        raise UserError(f"steps.intervals is {intervals}: a curve needs at least 2")


@lru_cache
def placed(steps: Steps, pixels: int) -> tuple[list[int], list[float]]:
    """The steps of an image of so many pixels, worked out once."""
    return steps(pixels)


Direction = Literal["deletion", "insertion"]
MEAN = Mean()
TWENTY = Midpoint(20)
FULL = Trapezoid(224)


@dataclass(frozen=True)
class Walk:
    """From the query to its baseline, or back, most relevant pixels first; both ends are the same for every method."""

    direction: Direction
    baseline: Baseline
    steps: Steps

    def count(self, pixels: int) -> int:
        """The points between the ends."""
        return len(placed(self.steps, pixels)[0]) - 2

    def series(self, explained: Explained, pair: int) -> Replaced:
        ends = explained.scene.encoded.query.images[pair], explained.scene.without(self.baseline)[pair]
        start, finish = ends if self.direction == "deletion" else ends[::-1]
        order = explained.ranks[pair]
        counts = order.new_tensor(placed(self.steps, order.numel())[0][1:-1])
        return Replaced(start, finish, order, counts)

    def scores(self, explained: Explained, asked: Flags) -> Curves:
        """The raw curve, both ends included; NaN for pairs that are not asked."""
        ends = [explained.scene.full()[:, None], explained.scene.base(self.baseline)[:, None]]
        first, last = ends if self.direction == "deletion" else ends[::-1]
        return torch.cat([first, explained.scores(self, asked), last], dim=1)

    def area(self, explained: Explained, asked: Flags) -> Scores:
        """Area under (s - s_base) / (s_full - s_base)."""
        full, base = explained.scene.full(), explained.scene.base(self.baseline)
        _, weights = placed(self.steps, explained.maps[0].numel())
        return (self.scores(explained, asked) - base[:, None]) @ full.new_tensor(weights) / (full - base)

    def without_range(self, explained: Explained, least: float) -> Flags:
        """Pairs whose query and baseline score alike: there is nothing to lose."""
        return explained.scene.full() - explained.scene.base(self.baseline) < least


@dataclass(frozen=True)
class Perturbation:
    """Area under (s - s_base) / (s_full - s_base) as pixels go (deletion) or come (insertion), most relevant first.

    After Petsiuk et al., BMVC 2018, on the target instead of a class. NaN where s_full - s_base < `min_range`, in units
    of the score.
    """

    walk: Literal["deletion", "insertion", "insertion_minus_deletion"]
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    min_range: float = 0.05
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    @property
    def probes(self) -> tuple[Walk, ...]:
        directions: tuple[Direction, ...] = ("insertion", "deletion")
        return tuple(Walk(name, self.baseline, self.steps) for name in directions if name in self.walk)

    def asked(self, explained: Explained) -> Flags:
        return ~self.probes[0].without_range(explained, self.min_range)

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        return {"zero_range": self.probes[0].without_range(explained, self.min_range)}

    def __call__(self, explained: Explained) -> Scores:
        areas = [walk.area(explained, self.asked(explained)) for walk in self.probes]
        value = areas[0] - areas[1] if len(areas) == 2 else areas[0]
        return defined(value, self.undefined(explained))


@dataclass(frozen=True)
class AreaError:
    """|area of `steps` - area of `full`| of the curves of a random `share` of pairs and methods: what `steps` cost.

    The draw hangs on the pair, the method and `seed`; pairs that are not drawn leave no record.
    """

    walk: Direction
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    full: Steps = FULL
    share: float = 0.02
    seed: int = 0
    min_range: float = 0.05
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.share <= 1:
            raise UserError(f"full_share is {self.share}: expected a share between 0 and 1")

    @property
    def probes(self) -> tuple[Walk, ...]:
        return Walk(self.walk, self.baseline, self.full), Walk(self.walk, self.baseline, self.steps)

    def asked(self, explained: Explained) -> Flags:
        return ~torch.stack(list(self.undefined(explained).values())).any(dim=0)

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        pairs = zip(explained.scene.pairs.query_ids, explained.scene.pairs.reference_ids, strict=True)
        curve = (explained.explainer, self.walk, self.baseline.name)
        draws = [pair_seed(self.seed, *pair, *curve) / 2**63 for pair in pairs]
        missed = torch.tensor(draws, device=explained.maps.device) >= self.share
        return {NOT_DRAWN: missed, "zero_range": self.probes[0].without_range(explained, self.min_range)}

    def __call__(self, explained: Explained) -> Scores:
        full, ours = (walk.area(explained, self.asked(explained)) for walk in self.probes)
        return defined((ours - full).abs(), self.undefined(explained))
