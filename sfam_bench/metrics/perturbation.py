"""Deletion and insertion: one walk between two images, in two directions."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch

from sfam_bench.core.baselines import Baseline, MeanColour
from sfam_bench.core.errors import Checked
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Finite, Natural, Positive, Share
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Scores
from sfam_bench.metrics.shared.base import NOT_DRAWN, Explained, Measured, mask_values, no_reason
from sfam_bench.metrics.shared.steps import Midpoint, Steps, Trapezoid, format_steps
from sfam_bench.metrics.shared.walks import Curves, Degrade, Direction, Order, Walk, area, walk_of

MEAN = MeanColour()
TWENTY = Midpoint(20)
FULL = Trapezoid(224)
AUC = {
    "deletion": "deletion AUC",
    "insertion": "insertion AUC",
    "insertion_minus_deletion": "insertion - deletion AUC",
}
MEANINGS = {
    "deletion": "score while the map's top pixels are removed",
    "insertion": "score while the map's top pixels are restored",
    "insertion_minus_deletion": "gap between the insertion and the deletion curve",
}
SCALES = {"range": "", "raw": "raw scores", "minmax": "each curve from 0 to 1"}
DEGRADED = {"query": "", "reference": ", of the reference", "both": ", of both images"}
FLAT = 1e-6  # a difference of scores within rounding


@dataclass(frozen=True)
class Perturbation(Checked):
    """Area under the score as the most relevant pixels are deleted or inserted; Petsiuk et al., BMVC 2018.

    The score of the pair takes the place of the class probability, scaled as (s - s_base) / (s_full - s_base).
    Insertion minus deletion is also the difference between deleting the least relevant pixels first and the most
    relevant first, since the deletion curve in reverse order is the insertion curve read backwards.

    walk: "deletion", "insertion", or "insertion_minus_deletion".
    baseline: what replaces deleted pixels.
    steps: at which shares of changed pixels the curve is computed: "Midpoint" in the middle of equal intervals,
        "Trapezoid" at their ends, "Stride" after every so many pixels (RISE's code), "Chunks" in equal parts
        (torchcam).
    min_range: the value is NaN where s_full - s_base is smaller than this, in units of the score.
    scale: "range" scales by s_base and s_full, "minmax" by the lowest and the highest value of the curve itself; "raw"
        does not scale.
    order: "most" or "least" relevant pixels first.
    degrade: the image whose pixels are changed: "query", "reference" or "both", each by its own map.
    times: a constant factor (100: percent).
    above: 1 minus the area, as in the deletion area above the curve (dAAC) of C3A (Chen et al., 2026).
    """

    walk: Literal["deletion", "insertion", "insertion_minus_deletion"]
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    min_range: Finite = 0.05
    scale: Literal["range", "raw", "minmax"] = "range"
    order: Order = "most"
    degrade: Degrade = "query"
    times: Positive = 1
    above: bool = False
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        gap = self.walk == "insertion_minus_deletion"
        limits = (-self.times if gap else 0, self.times) if self.scale == "minmax" else ANY
        unbounded = "where the score is below s_base or above s_full, the area may lie outside of [0, 1]"
        own = self.scale != "range"  # a published protocol, which differs from others in its steps
        auc = AUC[self.walk].replace("AUC", "area above the curve") if self.above else AUC[self.walk]
        notes = format_steps(self.steps) if own else "", "least relevant first" if self.order == "least" else ""
        side = "above" if self.above else "below"
        unlike = {"most": self.order, "query": self.degrade, "range": self.scale, "below": side}  # by default value
        return MetricCard(
            range=limits,
            remakes=int(self.degrade != "query"),
            degenerate=() if own else (unbounded,),
            group="Faithfulness",
            label=label(f"{auc}{DEGRADED[self.degrade]}", self.baseline.name, SCALES[self.scale], *notes),
            meaning=f"{'1 - ' * self.above}{MEANINGS[self.walk]}{f', {SCALES[self.scale]}' if own else ''}",
            family="_".join([self.walk, *(value for usual, value in unlike.items() if value != usual)]),
            baseline=self.baseline.name,
            steps=format_steps(self.steps),
        )

    @property
    def higher_is_better(self) -> bool:
        rises = (self.walk != "deletion") == (self.order == "most")
        return rises != self.above

    @property
    def probes(self) -> tuple[Walk, ...]:
        directions: tuple[Direction, ...] = ("insertion", "deletion")
        return tuple(
            walk_of(name, self.baseline, self.steps, self.order, self.degrade)
            for name in directions
            if name in self.walk
        )

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        if not (needed := no_reason(reasons)).any():
            return Measured(torch.full_like(explained.scene.full(), torch.nan), reasons)
        value = area(self.probes, lambda walk: self._area(walk, explained, needed))
        if self.scale == "minmax":
            flat = [curve_range(walk.scores(explained, needed)) <= FLAT for walk in self.probes]
            reasons["flat_curve"] = torch.stack(flat).any(dim=0)
        return mask_values((1 - value if self.above else value) * self.times, reasons)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        none = torch.zeros(len(explained.maps), dtype=torch.bool, device=explained.maps.device)
        if self.degrade != "query" and explained.other is None:
            return {NOT_DRAWN: ~none}
        reasons = {"zero_range": none}
        if self.scale == "range":
            narrow = [walk.without_range(explained, self.min_range) for walk in self.probes]
            reasons["zero_range"] = torch.stack(narrow).any(dim=0)
        if self.degrade != "query" and explained.other is not None and explained.other.raw is not None:
            reasons["reference_map"] = torch.stack(find_flaws(explained.other.raw)).any(dim=0)
        return reasons

    def _area(self, walk: Walk, explained: Explained, needed: Flags) -> Scores:
        if self.scale == "range":
            return walk.area(explained, needed)
        curves = walk.scores(explained, needed)
        if self.scale == "minmax":
            curves = (curves - curves.amin(dim=1, keepdim=True)) / curve_range(curves)[:, None]
        return walk.integral(curves, explained)


def curve_range(curves: Curves) -> Scores:
    """The greatest minus the least value of each curve."""
    return curves.amax(dim=1) - curves.amin(dim=1)


@dataclass(frozen=True)
class AreaError(Checked):
    """Absolute difference of the areas of one curve at `steps` and at `full` steps; defined here.

    Computed for a random sample of curves, seeded by pair, method, curve and `seed`; the other pairs have no record.

    full: the steps of the full protocol.
    share: of curves for which it is computed.
    """

    walk: Direction
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    full: Steps = FULL
    share: Share = 0.02
    seed: Natural = 0
    min_range: Finite = 0.05
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(0, inf),
            group="Faithfulness",
            label=label(f"area error of {self.walk}", self.baseline.name),
            meaning="difference between the area at the steps of the run and the area with all steps",
            family=f"area_error_{self.walk}",
            baseline=self.baseline.name,
            steps=format_steps(self.steps),
            role="check",
        )

    @property
    def probes(self) -> tuple[Walk, ...]:
        return Walk(self.walk, self.baseline, self.full), Walk(self.walk, self.baseline, self.steps)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        pairs = zip(explained.scene.pairs.query_ids, explained.scene.pairs.reference_ids, strict=True)
        curve = (explained.explainer, self.walk, self.baseline.name)
        draws = [pair_seed(self.seed, *pair, *curve) / 2**63 for pair in pairs]
        not_drawn = torch.tensor(draws, device=explained.maps.device) >= self.share
        return {NOT_DRAWN: not_drawn, "zero_range": self.probes[0].without_range(explained, self.min_range)}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        full, ours = (walk.area(explained, no_reason(reasons)) for walk in self.probes)
        return mask_values((ours - full).abs(), reasons)
