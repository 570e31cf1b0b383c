"""Does the map lie on a region of the query: the object, or on the planted set the evidence?"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError, check_choices
from sfam_bench.core.maps import tie_bounds
from sfam_bench.core.metric_card import SHARE, VALUES, Group, MetricCard, label, role
from sfam_bench.core.ranges import NotNegative, Share
from sfam_bench.core.types import Flags, Maps, Masks, Scores
from sfam_bench.metrics.shared.base import Explained, Measured, defined

REGIONS = {  # in labels and in sentences; a region of another name stands for itself
    "foreground": ("", "the foreground"),
    "box": (", box", "the object's box"),
    "shared": (", shared parts", "the parts that the two images share"),
    "unshared": (", unshared parts", "the parts that the two images do not share"),
}


def region_words(region: str) -> tuple[str, str]:
    """What a label adds to the name of a metric of this region, and what a sentence calls it."""
    return REGIONS.get(region, (f", {region}", region))


def region_group(region: str) -> Group:
    """The table of metrics of a region: shared parts depend on both images."""
    return "Metrics that see the pair" if region in ("shared", "unshared") else "Localisation"


def within(tolerance: float) -> str:
    """A tolerance as labels say it."""
    return f"{tolerance:g} px" if tolerance else "no tolerance"


def above(maps: Maps, threshold: float) -> Masks:
    """Pixels of each map above a share of its maximum; none where it has no positive part."""
    return maps > threshold * maps.amax(dim=(1, 2), keepdim=True).clamp_min(0)


def check_threshold(name: str, threshold: float) -> None:
    """Raise UserError where a threshold would leave no pixel, or be no share."""
    if not 0 <= threshold < 1:
        raise UserError(f"{name}.threshold is {threshold}: expected a share of at least 0 and below 1, such as 0.5")


def average_precision(ranks: Int[Tensor, "batch rows cols"], maps: Maps, region: Masks) -> Scores:
    """Area under the steps of precision over recall as pixels come by falling relevance; NaN for an empty region.

    Pixels that tie come at once, as in scikit-learn. `ranks` are the places of the pixels in the order.
    """
    places, flat, wanted = ranks.flatten(1).long(), maps.flatten(1), region.flatten(1).double()
    values = torch.empty_like(flat).scatter_(1, places, flat)
    found = torch.empty_like(wanted).scatter_(1, places, wanted)
    _, until = tie_bounds(values)
    precision = found.cumsum(dim=1).gather(1, until - 1) / until
    return ((precision * found).sum(dim=1) / found.sum(dim=1)).to(maps.dtype)


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


def without_energy(explained: Explained, *regions: str) -> dict[str, Flags]:
    """By reason, the pairs for which there is nothing to share out, or nothing to hit."""
    return {"empty_mask": empty(explained, *regions), "no_positive_part": without_positive_part(explained)}


@dataclass(frozen=True)
class PointingGame(Checked):
    """1 where the peak is within `tolerance` px of the region; Zhang et al., IJCV 2018, with TorchRay's 15 px.

    `only_with` limits it to pairs that have that other region too (partial matches have an unshared one).
    """

    region: str = "foreground"
    tolerance: NotNegative = 15.0
    only_with: str | None = None
    higher_is_better: bool | None = True

    @property
    def card(self) -> MetricCard:
        at, where = region_words(self.region)
        near = f", within {self.tolerance:g} px" if self.tolerance else ", to the pixel"
        limited = f" (pairs with {region_words(self.only_with)[1]} too)" if self.only_with else ""
        return MetricCard(
            range=SHARE,
            group=region_group(self.region),
            label=label(f"pointing game{at}", within(self.tolerance), "partial matches" if self.only_with else ""),
            meaning=f"does the peak lie on {where}{near}?{limited}",
            family="_".join(["pointing_game", self.region, *([self.only_with] if self.only_with else [])]),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,) if self.only_with is None else (self.region, self.only_with)

    def __call__(self, explained: Explained) -> Measured:
        found = hits(explained.maps, explained.scene.region(self.region), self.tolerance)
        return defined(found.to(explained.maps.dtype), {"empty_mask": empty(explained, self.region)})


@dataclass(frozen=True)
class EnergyPointingGame(Checked):
    """Share of the positive map inside the region; Wang et al., Score-CAM, CVPRW 2020.

    `value` "chance" is the region's area share, what a blind map scores, and "ratio" their quotient.
    """

    region: str = "foreground"
    value: Literal["share", "chance", "ratio"] = "share"
    only_with: str | None = None
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        at, where = region_words(self.region)
        meanings = {
            "share": f"share of the positive map on {where}",
            "chance": f"share of the image taken by {where}",
            "ratio": f"share of the positive map on {where} over that of the image: 1 for a blind map",
        }
        return MetricCard(
            range=(0, inf) if self.value == "ratio" else SHARE,
            group=region_group(self.region),
            label=label(f"energy pointing game{at}", VALUES.get(self.value, "")),
            meaning=meanings[self.value],
            family=f"energy_pointing_game_{self.region}",
            role=role(self.value),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,) if self.only_with is None else (self.region, self.only_with)

    def __call__(self, explained: Explained) -> Measured:
        region = explained.scene.region(self.region)
        share = energy(explained.maps, region)
        chance = region.to(share.dtype).mean(dim=(1, 2))
        values = {"share": share, "chance": chance, "ratio": share / chance}[self.value]
        return defined(values, without_energy(explained, self.region))


@dataclass(frozen=True)
class IoU:
    """Intersection over union of the region and what of the map lies above a threshold; Zhou et al., CVPR 2016.

    There (CAM) it is the step before the box, at 0.2.

    threshold: share of the map's maximum, which the pixels must exceed.
    """

    higher_is_better: ClassVar[bool] = True

    region: str = "foreground"
    threshold: Share = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        check_threshold("IoU", self.threshold)

    @property
    def card(self) -> MetricCard:
        at, where = region_words(self.region)
        return MetricCard(
            range=SHARE,
            group=region_group(self.region),
            label=label(f"IoU{at}", f"above {100 * self.threshold:g} % of the maximum"),
            meaning=f"overlap of the thresholded map with {where}",
            family=f"iou_{self.region}",
            threshold=self.threshold,
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,)

    def __call__(self, explained: Explained) -> Measured:
        region, kept = explained.scene.region(self.region), above(explained.maps, self.threshold)
        both, either = (mask.sum(dim=(1, 2)) for mask in (region & kept, region | kept))
        return defined((both / either).to(explained.maps.dtype), without_energy(explained, self.region))


@dataclass(frozen=True)
class AveragePrecision(Checked):
    """Average precision of the map's pixels as a search for the region; scikit-learn's average_precision_score.

    It needs no threshold and reads negative values too. Over all images at once it would be PxAP of Choe et al., CVPR
    2020; here it is of each pair.

    value: "precision", or its "chance" level: the region's area share, which a constant map scores too.
    """

    region: str = "foreground"
    value: Literal["precision", "chance"] = "precision"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        at, where = region_words(self.region)
        precise = f"average precision of the map against {where}"
        return MetricCard(
            range=SHARE,
            group=region_group(self.region),
            label=label(f"average precision{at}", VALUES.get(self.value, "")),
            meaning=precise if self.value == "precision" else f"share of the image taken by {where}",
            family=f"average_precision_{self.region}",
            role=role(self.value),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,)

    def __call__(self, explained: Explained) -> Measured:
        region = explained.scene.region(self.region)
        if self.value == "chance":
            values = region.to(explained.maps.dtype).mean(dim=(1, 2))
        else:
            values = average_precision(explained.ranks, explained.maps, region)
        return defined(values, {"empty_mask": empty(explained, self.region)})
