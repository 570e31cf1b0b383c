"""Selectivity for the shared part of partial matches."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import NotNegative
from sfam_bench.metrics.localisation import empty, energy, hits, without_energy
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values


@dataclass(frozen=True)
class Selectivity(Checked):
    """Energy (or peak) on the shared part minus on the unshared part of the query; defined here.

    A map that ignores the reference scores 0 on average: it gains with one reference what it loses with another.

    of: "energy", the share of the positive map, or "peak", whether the map's maximum lies there.
    tolerance: of the peak, in pixels, as in the pointing game.
    """

    of: Literal["energy", "peak"] = "energy"
    tolerance: NotNegative = 0.0
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("shared", "unshared")

    @property
    def card(self) -> MetricCard:
        share = "share of the positive map on"
        what, rest = (
            (share, "that on") if self.of == "energy" else ("1 if the maximum of the map is on", "1 if it is on")
        )
        return MetricCard(
            range=(-1, 1),
            group="Metrics that depend on the pair",
            label=label("selectivity", self.of),
            meaning=f"partial matches: {what} the parts that the two images share, minus {rest} the other parts",
            family="selectivity",
        )

    def __call__(self, explained: Explained) -> Measured:
        maps, shared, unshared = explained.maps, *(explained.scene.region(name) for name in self.needs)
        if self.of == "energy":
            values = energy(maps, shared) - energy(maps, unshared)
        else:
            values = hits(maps, shared, self.tolerance).to(maps) - hits(maps, unshared, self.tolerance).to(maps)
        hidden = {"empty_mask": empty(explained, *self.needs)}
        return mask_values(values, hidden if self.of == "peak" else without_energy(explained, *self.needs))
