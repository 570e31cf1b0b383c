"""The score when the map alone is kept: average drop and increase."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.maps import normalise
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import Finite, Positive
from sfam_bench.core.types import Flags, Maps, Scores
from sfam_bench.engine.series import Masked, Series
from sfam_bench.metrics.perturbation import FLAT, MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason

Mask = Literal["positive", "minmax"]


@dataclass(frozen=True)
class Kept:
    """The query masked by its map, with a baseline behind it: one image."""

    baseline: Baseline
    mask: Mask = "positive"

    def count(self, pixels: int) -> int:
        return 1

    def series(self, explained: Explained, pair: int) -> Series:
        image, behind = explained.scene.encoded.query.images[pair], explained.scene.without(self.baseline)[pair]
        masks = self.mask_of(explained)[pair][None]
        return Masked(image, behind, lambda first, last: masks[first:last], 1)

    def mask_of(self, explained: Explained) -> Maps:
        """The share of each pixel that is kept; `minmax` uses the range of the map before it was resized."""
        if self.mask == "positive":
            return explained.maps.clamp(0, 1)
        cells = explained.maps if explained.raw is None else normalise(explained.raw)
        low, high = cells.amin(dim=(1, 2), keepdim=True), cells.amax(dim=(1, 2), keepdim=True)
        return ((explained.maps - low) / (high - low).clamp_min(torch.finfo(low.dtype).tiny)).clamp(0, 1)


@dataclass(frozen=True)
class Keeping(Checked):
    """Percent of the score lost when the map alone is kept, or whether the score rises; Chattopadhay et al., WACV 2018.

    value: "drop" or "increase".
    baseline: what replaces the pixels outside of the map.
    mask: "positive", the positive part of the map with a maximum of 1, or "minmax", the map scaled from its lowest to
        its highest value (torchcam, grad-cam).
    scale: "range" takes Y and O as the score minus that of the baseline, "raw" as the score.
    min_range: the value is NaN where Y is smaller than this, in units of the score.
    times: a constant factor (100: percent).
    """

    value: Literal["drop", "increase"]
    baseline: Baseline = MEAN
    mask: Mask = "positive"
    scale: Literal["range", "raw"] = "range"
    min_range: Finite = 0.05
    times: Positive = 100
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        unit = "percent" if self.times == 100 else "share"
        notes = "" if self.scale == "range" else "raw scores", "" if self.mask == "positive" else "least to greatest"
        return MetricCard(
            range=(0, inf if self.value == "drop" else self.times),
            degenerate=("a map that is 1 everywhere is optimal, since nothing is removed",),
            group="Faithfulness",
            label=label(f"average {self.value}", self.baseline.name, *notes),
            meaning=f"{unit} of the score lost when the map alone is kept"
            if self.value == "drop"
            else f"{unit} of pairs whose score rises when the map alone is kept",
            family=f"average_{self.value}_{self.mask}_{self.scale}",
            baseline=self.baseline.name,
        )

    @property
    def higher_is_better(self) -> bool:
        return self.value == "increase"

    @property
    def probes(self) -> tuple[Kept, ...]:
        return (Kept(self.baseline, self.mask),)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        full, zero = self._ends(explained)
        return {"zero_range": full - zero < self.min_range}

    def __call__(self, explained: Explained) -> Measured:
        reasons, (full, zero) = self.reasons(explained), self._ends(explained)
        kept = explained.readings(self.probes[0], no_reason(reasons))[:, 0]
        lost = (full - kept).clamp_min(0) / (full - zero)
        values = lost if self.value == "drop" else (kept > full + FLAT).to(full.dtype)
        return mask_values(values * self.times, reasons)

    def _ends(self, explained: Explained) -> tuple[Scores, Scores]:
        """The scores of the query and of its baseline image, which is 0 for raw scores."""
        full = explained.scene.full()
        return full, explained.scene.base(self.baseline) if self.scale == "range" else torch.zeros_like(full)
