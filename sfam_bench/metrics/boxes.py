"""Overlap of boxes around the map's high part with the object's box."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage

from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import SHARE, MetricCard, label
from sfam_bench.core.ranges import Share
from sfam_bench.core.types import Maps, Masks
from sfam_bench.metrics.localisation import check_threshold, empty
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values

TOUCHING = np.zeros((3, 3, 3), dtype=bool)  # within an image, corners too
TOUCHING[1] = True


@dataclass(frozen=True)
class Components:
    """The connected components (8-neighbourhood) of a batch of masks: image, pixels and box of each.

    Boxes are first row, first column, last row, last column; the last ones are exclusive.
    """

    image: Int[np.ndarray, " components"]
    pixels: Int[np.ndarray, " components"]
    box: Int[np.ndarray, "components 4"]


def find_components(masks: Masks) -> Components:
    """The components of all images."""
    labels, _ = ndimage.label(masks.cpu().numpy(), TOUCHING)
    found = ndimage.find_objects(labels)
    box = [(rows.start, cols.start, rows.stop, cols.stop) for _, rows, cols in found]
    pixels = np.bincount(labels.ravel(), minlength=len(found) + 1)[1:]
    image = np.array([images.start for images, _, _ in found], dtype=np.int64)
    return Components(image, pixels, np.array(box, dtype=np.int64).reshape(-1, 4))


def extent(masks: Masks) -> Int[np.ndarray, "batch 4"]:
    """The box of the mask of each image; zeros for an empty mask."""
    sides = []
    for axis in (2, 1):
        marked = masks.any(dim=axis).cpu().numpy()
        first, last = marked.argmax(axis=1), marked.shape[1] - marked[:, ::-1].argmax(axis=1)
        sides.append(np.where(marked.any(axis=1), (first, last), 0))
    (top, bottom), (left, right) = sides
    return np.stack([top, left, bottom, right], axis=1)


def overlap(first: Int[np.ndarray, "boxes 4"], second: Int[np.ndarray, "boxes 4"]) -> Float[np.ndarray, " boxes"]:
    """Intersection over union of boxes, row by row."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    both = (high - low).clip(0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (first, second)]
    return both / np.maximum(areas[0] + areas[1] - both, 1)


def cut_maps(maps: Maps, threshold: float) -> Masks:
    """Pixels above a share of each map's range, from its least value; none of a constant map."""
    low, high = (end(maps.flatten(1), dim=1).double()[:, None, None] for end in (torch.amin, torch.amax))
    return (maps > low + threshold * (high - low)) & (high > low)


@dataclass(frozen=True)
class BoxIoU(Checked):
    """Intersection over union of boxes around the map's high part and the object's box; Choe et al., CVPR 2020.

    Each connected component (8-neighbourhood) of the pixels above the threshold has its tightest box; the threshold is
    a share of the map's range, as in the paper. A family of thresholds gives MaxBoxAccV2, whose threshold is chosen for
    the data set, not for each image (the report adds it). Pixels are counted exactly; the authors' code rounds maps to
    256 levels, adds a pixel to boxes on the right and below, and adds boxes of the edges of holes.

    threshold: share of the map's range, which the pixels must exceed.
    boxes: the best of all boxes (MaxBoxAccV2), or that of the largest component, in pixels (MaxBoxAcc).
    """

    higher_is_better: ClassVar[bool] = True

    threshold: Share = 0.2
    boxes: Literal["all", "largest"] = "all"
    region: str = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold("BoxIoU", self.threshold)

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=SHARE,
            degenerate=("boxes=all takes the best of all boxes, and speckled maps have hundreds",),
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
        found = find_components(cut_maps(explained.maps, self.threshold))
        values = overlap(found.box, extent(explained.scene.region(self.region))[found.image])
        best = np.zeros(len(explained.maps))
        if self.boxes == "all":
            np.maximum.at(best, found.image, values)
        else:
            order = np.argsort(found.pixels, kind="stable")  # the largest is written last
            best[found.image[order]] = values[order]
        flat = explained.maps.flatten(1)
        reasons = {"empty_mask": empty(explained, self.region), "constant_map": flat.amax(dim=1) <= flat.amin(dim=1)}
        return mask_values(torch.from_numpy(best).to(explained.maps), reasons)
