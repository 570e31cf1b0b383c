"""Does the negative part of a signed map lie on what makes two images unlike?"""

from dataclasses import dataclass
from typing import Literal

from sfam_bench.core.metric_card import VALUES, MetricCard, role
from sfam_bench.metrics.localisation import RegionMetric, empty, energy_value
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values


@dataclass(frozen=True)
class NegativeEnergy(RegionMetric):
    """Share of the map's negative part inside the region; the energy pointing game of the negated map, defined here.

    A part that only one of two images has can lower their similarity; there, a signed map should be negative. Maps
    without a negative part have no value.

    value: "share" of the negative map inside the region, or "chance", which is the share of a constant map (the
        region's share of the image).
    """

    region: str = "unshared"
    value: Literal["share", "chance"] = "share"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        meanings = {"share": "share of the negative part of the map on {}", "chance": "share of the image taken by {}"}
        return self.describe(
            "negative energy",
            (VALUES.get(self.value, ""),),
            meanings[self.value],
            family=f"negative_energy_{self.region}",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        negated = -explained.maps
        values = energy_value(negated, explained.scene.region(self.region), self.value)
        none = ~(negated > 0).flatten(1).any(dim=1)
        return mask_values(values, {"empty_mask": empty(explained, self.region), "no_negative_part": none})
