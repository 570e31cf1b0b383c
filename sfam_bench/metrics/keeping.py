"""The score when the map alone is kept: average drop and increase."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.maps import find_flaws, normalise
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import Finite, Positive
from sfam_bench.core.types import Embeddings, Flags, Maps, Scores
from sfam_bench.engine.series import Joined, Masked, Series
from sfam_bench.metrics.perturbation import FLAT, MEAN
from sfam_bench.metrics.shared.base import NOT_DRAWN, Explained, Measured, mask_values, no_reason, no_records
from sfam_bench.metrics.shared.walks import reference_of

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
class KeptBoth(Kept):
    """Both images of the pair, each masked by its own map; the score is that of the masked pair."""

    def count(self, pixels: int) -> int:
        return 2

    def series(self, explained: Explained, pair: int) -> Series:
        return Joined((super().series(explained, pair), super().series(reference_of(explained), pair)))

    def read(self, explained: Explained, embeddings: Embeddings, pair: int) -> Float[Tensor, "items 1"]:
        """The score of the masked query with the masked reference."""
        query, reference = embeddings.chunk(2)
        return (explained.scene.encoded.terms[0].sign * explained.scene.model.similarity(query, reference))[:, None]


@dataclass(frozen=True)
class Keeping(Checked):
    """Percent of the score lost when the map alone is kept, or whether the score rises; Chattopadhay et al., WACV 2018.

    With `degrade` both it is the joint drop or increase of Sammani et al., TIP 2023, whose code has raw scores, black
    pixels and maps from least to greatest.

    value: "drop" or "increase".
    baseline: what replaces the pixels outside of the map.
    mask: "positive", the positive part of the map with a maximum of 1, or "minmax", the map scaled from its lowest to
        its highest value (torchcam, grad-cam).
    scale: "range" takes Y and O as the score minus that of the baseline, "raw" as the score.
    min_range: the value is NaN where Y is smaller than this, in units of the score.
    times: a constant factor (100: percent).
    degrade: the images that are masked: the query, or both, each by its own map.
    """

    value: Literal["drop", "increase"]
    baseline: Baseline = MEAN
    mask: Mask = "positive"
    scale: Literal["range", "raw"] = "range"
    min_range: Finite = 0.05
    times: Positive = 100
    degrade: Literal["query", "both"] = "query"
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        both = self.degrade == "both"
        unit = "percent" if self.times == 100 else "share"
        kept = "the maps of both images alone are" if both else "the map alone is"
        notes = "" if self.scale == "range" else "raw scores", "" if self.mask == "positive" else "least to greatest"
        return MetricCard(
            range=(0, inf if self.value == "drop" else self.times),
            degenerate=("a map that is 1 everywhere is optimal, since nothing is removed",),
            group="Faithfulness",
            remakes=int(self.degrade == "both"),
            label=label(f"{'joint ' * both}average {self.value}", self.baseline.name, *notes),
            meaning=f"{unit} of the score lost when {kept} kept"
            if self.value == "drop"
            else f"{unit} of pairs whose score rises when {kept} kept",
            family=f"{'joint_' * both}average_{self.value}_{self.mask}_{self.scale}",
            baseline=self.baseline.name,
        )

    @property
    def higher_is_better(self) -> bool:
        return self.value == "increase"

    @property
    def probes(self) -> tuple[Kept, ...]:
        return ((KeptBoth if self.degrade == "both" else Kept)(self.baseline, self.mask),)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        if self.degrade == "both" and explained.other is None:
            return {NOT_DRAWN: torch.ones(len(explained.maps), dtype=torch.bool, device=explained.maps.device)}
        full, zero = self._ends(explained)
        reasons = {"zero_range": full - zero < self.min_range}
        if self.degrade == "both" and explained.other is not None and explained.other.raw is not None:
            reasons["reference_map"] = torch.stack(find_flaws(explained.other.raw)).any(dim=0)
        return reasons

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        if NOT_DRAWN in reasons:
            return no_records(explained)
        full, zero = self._ends(explained)
        kept = explained.readings(self.probes[0], no_reason(reasons))[:, 0]
        lost = (full - kept).clamp_min(0) / (full - zero)
        values = lost if self.value == "drop" else (kept > full + FLAT).to(full.dtype)
        return mask_values(values * self.times, reasons)

    def _ends(self, explained: Explained) -> tuple[Scores, Scores]:
        """The scores of the query and of its baseline image, which is 0 for raw scores."""
        full, scene = explained.scene.full(), explained.scene
        if self.scale == "raw":
            return full, torch.zeros_like(full)
        if self.degrade == "query":
            return full, scene.base(self.baseline)
        behind = scene.bare(self.baseline), reference_of(explained).scene.bare(self.baseline)
        return full, scene.encoded.terms[0].sign * scene.model.similarity(*behind)
