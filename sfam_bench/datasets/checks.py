"""Checks of a data set's index before anything is computed; no image is opened."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from numbers import Integral

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Box
from sfam_bench.datasets.base import ROLES

OVERHANG = 3.0, 0.02  # pixels, and share of the side, by which marks may exceed the image: CUB's boxes do by two pixels
SIDES = ("train", "validation", "test")
NUMBERED = re.compile(r"(?:^|/)(\d+)\.[^/]*/[^/]*$")  # the folder of an image, as 001.Black_footed_Albatross


def check_index(index: pd.DataFrame, title: str, columns: Sequence[str]) -> None:
    """Raise UserError if a column of an index of `ImageFolder` is absent or holds invalid values."""
    if absent := [name for name in columns if name not in index]:
        raise UserError(f"{title}: its index lacks the columns {', '.join(absent)}: see ImageFolder")
    for image_id, path, mask in zip(index.index, index["path"], index["mask_path"], strict=True):
        for what, value in (("id", image_id), ("path", path), ("mask_path", "-" if mask is None else mask)):
            if not isinstance(value, str):
                raise UserError(f"{title}: the {what} of image {image_id!r} is {value!r}: expected a string")
    check_rows(index, title)
    for image_id, side in index["split"].items():
        if side not in SIDES:
            raise UserError(f"{title}: the split of image {image_id!r} is {side!r}: expected {', '.join(SIDES)}")
    for name in (name for name in ROLES if name in index):
        if not all(isinstance(value, bool | np.bool) for value in index[name]):
            raise UserError(f"{title}: {name} holds other values than True and False: correct it")
    parts = None
    for image_id, points in index["keypoints"].items():
        if points is None:
            continue
        if not (isinstance(points, np.ndarray) and points.ndim == 2 and points.shape[1] == 3):
            found = f"of shape {points.shape}" if isinstance(points, np.ndarray) else repr(points)
            expected = "an array (parts, 3) or None"
        elif len(points) != (parts := parts or len(points)) or not np.isfinite(points).all():
            found, expected = points.tolist(), f"finite x, y, visible of {parts} parts, as for the other images"
        else:
            continue
        raise UserError(f"{title}: the keypoints of image {image_id!r} are {found}: expected {expected}")


def check_rows(rows: pd.DataFrame, title: str, classes: int | None = None, numbered: bool = False) -> None:
    """Raise UserError if ids, paths, labels, class names or boxes of an index are invalid.

    Labels must lie in 1 to `classes` if given; `numbered`: the folder of each image begins with its class id, such as
    001.Black_footed_Albatross.
    """
    _check_unique(rows.index.to_series(), title, "image")
    _check_unique(rows["path"], title, "path")
    low, high = (0, np.inf) if classes is None else (1, classes)
    for image_id, label, path in zip(rows.index, rows["label"], rows["path"], strict=True):
        if not isinstance(label, Integral) or not low <= int(label) <= high:
            expected = "an integer of at least 0" if classes is None else f"a class id of 1 to {classes}"
            raise UserError(f"{title}: the label of image {image_id!r} ({path}) is {label}: expected {expected}")
        if numbered and (found := NUMBERED.search(path)) and int(found[1]) != label:
            raise UserError(
                f"{title}: image {image_id!r} has the label {label} and lies in {path}: expected the number of its "
                "class folder (does the list count from 0?); copy the official list again"
            )
    several = rows.groupby("label")["class_name"].nunique()
    if (several > 1).any():
        label = several.index[several > 1][0]
        names = rows["class_name"][rows["label"] == label].unique()[:2]
        named = " and ".join(map(repr, names))
        raise UserError(f"{title}: label {label} has the names {named}: give each class one name")
    for image_id, box in rows["box"].dropna().items():
        x1, y1, x2, y2 = box if isinstance(box, Sequence) and len(box) == 4 else (np.nan,) * 4
        finite = np.isfinite([x1, y1, x2, y2]).all()
        if not finite or min(x1, y1) < -OVERHANG[0] or x2 <= max(x1, 0) or y2 <= max(y1, 0):
            expected = "pixels 0 <= x1 < x2 and 0 <= y1 < y2"
            raise UserError(f"{title}: the box of image {image_id!r} is {box}: expected {expected}; correct it")


def _check_unique(names: pd.Series, title: str, what: str) -> None:
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        raise UserError(f"{title} names {what} {name!r} twice: remove one of them")
    if (names == "").any():
        raise UserError(f"{title} has an empty {what}: fill it in")


def clip_box(box: Box | None, size: tuple[int, int], name: str) -> Box | None:
    """Clip a box to its image of `size` (width, height) and log it; UserError if it exceeds the image by far."""
    if box is None:
        return None
    over = [far - side for far, side in zip(box[2:], size, strict=True)]
    wide = [past > most for past, most in zip(over, _overhang(size), strict=True)]
    if any(wide) or any(near >= side for near, side in zip(box, size, strict=False)):
        raise UserError(
            f"the box of {name} is {box} and its image {size[0]} x {size[1]}: give boxes in pixels of the stored "
            "image, or copy both again"
        )
    past = max(*over, -box[0], -box[1])
    if past <= 0:
        return box
    _warn_once(f"the box of {name} reaches {past:g} px past its image and is clipped")
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(size[0])), min(box[3], float(size[1]))


def check_points(points: np.ndarray | None, size: tuple[int, int], name: str) -> None:
    """Raise UserError if visible keypoints (x, y, visible) lie outside their image of `size` (width, height) by far."""
    for x, y, visible in [] if points is None else points:
        limits = zip((x, y), size, _overhang(size), strict=True)
        if visible and any(not -most <= at <= side + most for at, side, most in limits):
            raise UserError(
                f"a keypoint of {name} is at ({x:g}, {y:g}) and its image {size[0]} x {size[1]}: give keypoints in "
                "pixels of the stored image, or copy both again"
            )


def _overhang(size: tuple[int, int]) -> tuple[float, ...]:
    """By how many pixels marks may exceed an image on each axis."""
    return tuple(max(OVERHANG[0], OVERHANG[1] * side) for side in size)


@cache
def _warn_once(message: str) -> None:
    """Log a warning once, even if the image is loaded many times."""
    logging.getLogger(__name__).warning(message)
