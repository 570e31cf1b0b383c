"""Does the map lie on a region of the query: the object, or on the planted set the evidence?"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch

from sfam_bench.errors import check_choices
from sfam_bench.metrics.base import Explained, defined
from sfam_bench.metrics.card import SHARE, MetricCard
from sfam_bench.types import Flags, Maps, Masks, Scores


def near_peak(maps: Maps, tolerance: float) -> Masks:
    """Pixels strictly within `tolerance` px of each map's peak, the peak itself always."""
    peak = maps.flatten(1).argmax(dim=1)
    rows, cols = (torch.arange(n, device=maps.device) for n in maps.shape[-2:])
    down = rows - (peak // len(cols))[:, None]
    across = cols - (peak % len(cols))[:, None]
    distance = down.square()[:, :, None] + across.square()[:, None, :]
    return (distance < tolerance**2) | (distance == 0)


def hits(maps: Maps, region: Masks, tolerance: float) -> Flags:
    """Whether any pixel of the region lies within reach of the peak."""
    return (near_peak(maps, tolerance) & region).flatten(1).any(dim=1)


def energy(maps: Maps, region: Masks) -> Scores:
    """Share of the map's positive part inside the region; NaN for a map without a positive part."""
    positive = maps.clamp_min(0)
    return (positive * region).sum(dim=(1, 2)) / positive.sum(dim=(1, 2))


def empty(explained: Explained, *regions: str) -> Flags:
    """Pairs for which one of the regions is empty (hidden, or outside the crop): nothing to hit, nothing to miss."""
    seen = [explained.scene.region(name).flatten(1).any(dim=1) for name in regions]
    return ~torch.stack(seen).all(dim=0)


def without_positive_part(explained: Explained) -> Flags:
    """Pairs whose map is nowhere above zero, so that it has no energy to share out."""
    return ~(explained.maps > 0).flatten(1).any(dim=1)


@dataclass(frozen=True)
class PointingGame:
    """1 where the peak is within `tolerance` px of the region; Zhang et al., IJCV 2018, with TorchRay's 15 px.

    `only_with` limits it to pairs that have that other region too (partial matches have an unshared one).
    """

    card: ClassVar[MetricCard] = SHARE

    region: str = "foreground"
    tolerance: float = 15.0
    only_with: str | None = None
    higher_is_better: bool | None = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,) if self.only_with is None else (self.region, self.only_with)

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        return {"empty_mask": empty(explained, self.region)}

    def __call__(self, explained: Explained) -> Scores:
        found = hits(explained.maps, explained.scene.region(self.region), self.tolerance)
        return defined(found.to(explained.maps.dtype), self.undefined(explained))


@dataclass(frozen=True)
class EnergyPointingGame:
    """Share of the positive map inside the region; Wang et al., Score-CAM, CVPRW 2020.

    `value` "chance" is the region's area share, what a blind map scores, and "ratio" their quotient.
    """

    region: str = "foreground"
    value: Literal["share", "chance", "ratio"] = "share"
    only_with: str | None = None
    higher_is_better: bool | None = True  # null for "chance"

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def card(self) -> MetricCard:
        return MetricCard(range=(0, inf)) if self.value == "ratio" else SHARE

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,) if self.only_with is None else (self.region, self.only_with)

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        return {
            "empty_mask": empty(explained, self.region),
            "no_positive_part": without_positive_part(explained),
        }

    def __call__(self, explained: Explained) -> Scores:
        region = explained.scene.region(self.region)
        share = energy(explained.maps, region)
        chance = region.to(share.dtype).mean(dim=(1, 2))
        values = {"share": share, "chance": chance, "ratio": share / chance}[self.value]
        return defined(values, self.undefined(explained))
