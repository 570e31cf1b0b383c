"""Does a box about the map's high part meet the object's box?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage

from sfam_bench.core.errors import check_choices
from sfam_bench.core.metric_card import SHARE, MetricCard, label
from sfam_bench.core.ranges import Share
from sfam_bench.core.types import Maps, Masks
from sfam_bench.metrics.localisation import check_threshold, empty
from sfam_bench.metrics.shared.base import Explained, Measured, defined

TOUCHING = np.zeros((3, 3, 3), dtype=bool)  # within an image, corners too
TOUCHING[1] = True


@dataclass(frozen=True)
class Components:
    """The connected components of a batch of masks, corners connecting: image, pixels, box of each.

    Boxes are first row, first column, last row, last column; the last ones exclusive.
    """

    image: Int[np.ndarray, " components"]
    pixels: Int[np.ndarray, " components"]
    box: Int[np.ndarray, "components 4"]


def components(masks: Masks) -> Components:
    """Label all images at once."""
    labels, _ = ndimage.label(masks.cpu().numpy(), TOUCHING)
    found = ndimage.find_objects(labels)
    box = [(rows.start, cols.start, rows.stop, cols.stop) for _, rows, cols in found]
    pixels = np.bincount(labels.ravel(), minlength=len(found) + 1)[1:]
    image = np.array([images.start for images, _, _ in found], dtype=np.int64)
    return Components(image, pixels, np.array(box, dtype=np.int64).reshape(-1, 4))


def extent(masks: Masks) -> Int[np.ndarray, "batch 4"]:
    """The box of all that is marked in each image; zeros where nothing is."""
    sides = []
    for axis in (2, 1):
        seen = masks.any(dim=axis).cpu().numpy()
        first, last = seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)
        sides.append(np.where(seen.any(axis=1), (first, last), 0))
    (top, bottom), (left, right) = sides
    return np.stack([top, left, bottom, right], axis=1)


def overlap(first: Int[np.ndarray, "boxes 4"], second: Int[np.ndarray, "boxes 4"]) -> Float[np.ndarray, " boxes"]:
    """Intersection over union of boxes, row by row."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clip(0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (first, second)]
    return both / np.maximum(areas[0] + areas[1] - both, 1)


def cut_maps(maps: Maps, threshold: float) -> Masks:
    """Pixels above a share of the way from each map's least to its greatest value; none of a constant map."""
    low, high = (end(maps.flatten(1), dim=1).double()[:, None, None] for end in (torch.amin, torch.amax))
    return (maps > low + threshold * (high - low)) & (high > low)


@dataclass(frozen=True)
class BoxIoU:
    """Intersection over union of boxes about the map's high part and the object's box; Choe et al., CVPR 2020.

    Each connected component of the pixels above the threshold, corners connecting, has its tightest box; the map is
    taken from its least to its greatest value, as there. A family of thresholds gives MaxBoxAccV2, whose threshold is
    the data set's and not the image's (the report adds it). Pixels are counted exactly, where the authors' code rounds
    maps to 256 levels, adds a pixel to boxes on the right and below, and takes the edges of holes for boxes too.

    threshold: share of the map's range, which the pixels must exceed.
    boxes: the best of all boxes (MaxBoxAccV2), or that of the largest component, in pixels (MaxBoxAcc).
    """

    higher_is_better: ClassVar[bool] = True

    threshold: Share = 0.2
    boxes: Literal["all", "largest"] = "all"
    region: str = "box"

    def __post_init__(self) -> None:
        check_choices(self)
        check_threshold("BoxIoU", self.threshold)

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=SHARE,
            degenerate=("boxes=all takes the best of all boxes, which speckled maps have by the hundred",),
            group="Localisation",
            label=label(
                "box IoU", f"threshold {100 * self.threshold:g} %", "" if self.boxes == "all" else "largest component"
            ),
            meaning="overlap of the object's box with the best box of the map's high part"
            if self.boxes == "all"
            else "overlap of the object's box with the box of the map's largest high part",
            family="box_iou" if self.boxes == "all" else "box_iou_largest",
            threshold=self.threshold,
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.region,)

    def __call__(self, explained: Explained) -> Measured:
        found = components(cut_maps(explained.maps, self.threshold))
        values = overlap(found.box, extent(explained.scene.region(self.region))[found.image])
        best = np.zeros(len(explained.maps))
        if self.boxes == "all":
            np.maximum.at(best, found.image, values)
        else:
            order = np.argsort(found.pixels, kind="stable")  # the last to be written is the largest
            best[found.image[order]] = values[order]
        flat = explained.maps.flatten(1)
        reasons = {"empty_mask": empty(explained, self.region), "constant_map": flat.amax(dim=1) <= flat.amin(dim=1)}
        return defined(torch.from_numpy(best).to(explained.maps), reasons)
