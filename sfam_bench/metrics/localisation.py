"""Does the map lie on a region of the query: the object, or on the planted set the evidence?"""

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import tie_bounds
from sfam_bench.core.metric_card import SHARE, VALUES, MetricCard, label, role
from sfam_bench.core.ranges import NotNegative, Share
from sfam_bench.core.types import Flags, Maps, Masks, Scores
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values

REGIONS = {  # in labels and in sentences; any other region has its own name
    "foreground": ("", "the foreground"),
    "box": (", box", "the object's box"),
    "background": (", background", "the background"),
    "shared": (", shared parts", "the parts that the two images share"),
    "unshared": (", unshared parts", "the parts that the two images do not share"),
    "distinguishing": (
        ", distinguishing parts",
        "the parts shared with the reference and not with the negative",
    ),
}


def region_words(region: str) -> tuple[str, str]:
    """A region as labels name it after the metric, and as sentences name it."""
    return REGIONS.get(region, (f", {region}", region))


def format_tolerance(tolerance: float) -> str:
    """A tolerance as in labels."""
    return f"{tolerance:g} px" if tolerance else "no tolerance"


def above(maps: Maps, threshold: float) -> Masks:
    """Pixels of each map above a share of its maximum; none where it has no positive part."""
    return maps > threshold * maps.amax(dim=(1, 2), keepdim=True).clamp_min(0)


def check_threshold(name: str, threshold: float) -> None:
    """Raise UserError where a threshold is not in [0, 1)."""
    if not 0 <= threshold < 1:
        raise UserError(f"{name}.threshold is {threshold}: expected a share of at least 0 and below 1, such as 0.5")


def average_precision(ranks: Int[Tensor, "batch rows cols"], maps: Maps, region: Masks) -> Scores:
    """Area under the precision-recall steps, pixels in descending order of relevance; NaN for an empty region.

    Tied pixels count at once, as in scikit-learn. `ranks` are the ranks of the pixels in this order.
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
    """Whether any pixel of the region lies within `tolerance` px of the peak."""
    return (near_peak(maps, tolerance) & region).flatten(1).any(dim=1)


def energy(maps: Maps, region: Masks) -> Scores:
    """Share of the map's positive part inside the region; NaN for a map without a positive part."""
    positive = maps.clamp_min(0)
    return (positive * region).sum(dim=(1, 2)) / positive.sum(dim=(1, 2))


def empty(explained: Explained, *regions: str) -> Flags:
    """Pairs for which one of the regions is empty (hidden, or outside the crop)."""
    marked = [explained.scene.region(name).flatten(1).any(dim=1) for name in regions]
    return ~torch.stack(marked).all(dim=0)


def without_positive_part(explained: Explained) -> Flags:
    """Pairs whose map has no positive part."""
    return ~(explained.maps > 0).flatten(1).any(dim=1)


def without_energy(explained: Explained, *regions: str) -> dict[str, Flags]:
    """By reason, pairs with an empty region or a map without a positive part."""
    return {"empty_mask": empty(explained, *regions), "no_positive_part": without_positive_part(explained)}


def energy_value(maps: Maps, region: Masks, value: str) -> Scores:
    """The energy in a region ("share"), the region's share of the area ("chance"), or the "ratio" of both."""
    share, chance = energy(maps, region), region.to(maps.dtype).mean(dim=(1, 2))
    return {"share": share, "chance": chance, "ratio": share / chance}[value]


@dataclass(frozen=True)
class RegionMetric(Checked):
    """A metric that compares maps with a region of the query."""

    region: str = "foreground"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,)

    def describe(self, name: str, notes: tuple[str, ...], meaning: str, **facts: Any) -> MetricCard:
        """The card of a metric `name` with values in [0, 1]; `{}` in its meaning stands for the region."""
        at, where = region_words(self.region)
        of_pair = self.region in ("shared", "unshared", "distinguishing")  # which depend on both images
        return MetricCard(
            group="Metrics that depend on the pair" if of_pair else "Localisation",
            label=label(f"{name}{at}", *notes),
            meaning=meaning.format(where),
            **{"range": SHARE, **facts},
        )


@dataclass(frozen=True)
class PointingGame(RegionMetric):
    """1 where the map's maximum is less than `tolerance` px from the region; Zhang et al., IJCV 2018.

    The default tolerance of 15 px is TorchRay's; for shared and unshared parts of the planted set it is 4 px.

    region: foreground, box, shared, unshared or background.
    tolerance: in pixels; 0 counts only a maximum inside the region.
    only_with: use only pairs that also have this region; "unshared" limits it to partial matches.
    """

    tolerance: NotNegative = 15.0
    only_with: str | None = None
    higher_is_better: bool | None = True

    @property
    def card(self) -> MetricCard:
        near = f", within {self.tolerance:g} px" if self.tolerance else ", to the pixel"
        limited = f" (pairs with {region_words(self.only_with)[1]} too)" if self.only_with else ""
        return self.describe(
            "pointing game",
            (format_tolerance(self.tolerance), "partial matches" if self.only_with else ""),
            f"does the maximum of the map lie on {{}}{near}?{limited}",
            family="_".join(["pointing_game", *self.needs]),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,) if self.only_with is None else (self.region, self.only_with)

    def __call__(self, explained: Explained) -> Measured:
        found = hits(explained.maps, explained.scene.region(self.region), self.tolerance)
        return mask_values(found.to(explained.maps.dtype), {"empty_mask": empty(explained, self.region)})


@dataclass(frozen=True)
class EnergyPointingGame(RegionMetric):
    """Share of the positive map inside the region; Wang et al., Score-CAM, CVPRW 2020.

    value: "share" of the positive map inside the region; "chance", which is the share of a constant map (the region's
        share of the image); or their "ratio".
    """

    value: Literal["share", "chance", "ratio"] = "share"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        meanings = {
            "share": "share of the positive map on {}",
            "chance": "share of the image taken by {}",
            "ratio": "share of the positive map on {} over that of the image: 1 for a uniform map",
        }
        return self.describe(
            "energy pointing game",
            (VALUES.get(self.value, ""),),
            meanings[self.value],
            range=(0, inf) if self.value == "ratio" else SHARE,
            family=f"energy_pointing_game_{self.region}",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        values = energy_value(explained.maps, explained.scene.region(self.region), self.value)
        return mask_values(values, without_energy(explained, self.region))


@dataclass(frozen=True)
class IoU(RegionMetric):
    """Intersection over union of the region and the map above a threshold; Zhou et al., CVPR 2016.

    In the paper (CAM) it is the step before the box, at 0.2.

    threshold: share of the map's maximum, which the pixels must exceed.
    """

    higher_is_better: ClassVar[bool] = True

    threshold: Share = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold("IoU", self.threshold)

    @property
    def card(self) -> MetricCard:
        return self.describe(
            "IoU",
            (f"above {100 * self.threshold:g} % of the maximum",),
            "overlap of the thresholded map with {}",
            family=f"iou_{self.region}",
            threshold=self.threshold,
        )

    def __call__(self, explained: Explained) -> Measured:
        region, kept = explained.scene.region(self.region), above(explained.maps, self.threshold)
        both, either = (mask.sum(dim=(1, 2)) for mask in (region & kept, region | kept))
        return mask_values((both / either).to(explained.maps.dtype), without_energy(explained, self.region))


@dataclass(frozen=True)
class AveragePrecision(RegionMetric):
    """Average precision of the map's pixels as a search for the region; scikit-learn's average_precision_score.

    It needs no threshold and uses negative values too. It is computed for each pair; computed once over the pixels of
    all images, it would be PxAP of Choe et al., CVPR 2020.

    value: "precision", or "chance": the value of a constant map, which is the region's share of the image.
    """

    value: Literal["precision", "chance"] = "precision"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        precise = self.value == "precision"
        return self.describe(
            "average precision",
            (VALUES.get(self.value, ""),),
            "average precision of the map against {}" if precise else "share of the image taken by {}",
            family=f"average_precision_{self.region}",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        region = explained.scene.region(self.region)
        if self.value == "chance":
            values = region.to(explained.maps.dtype).mean(dim=(1, 2))
        else:
            values = average_precision(explained.ranks, explained.maps, region)
        return mask_values(values, {"empty_mask": empty(explained, self.region)})
