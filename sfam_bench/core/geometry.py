"""Resize and crop images together with boxes, masks and keypoints; no other module resizes images."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Keypoints, Mask

Box: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, far edges exclusive
Size: TypeAlias = Count | tuple[Count, Count] | list[Count]  # of a square, or rows and cols; YAML has lists
TO_UNIT = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)


def number_patches(size: tuple[int, int], grid: int) -> Int[Tensor, "rows cols"]:
    """The number of the patch of a grid x grid grid to which each pixel of an image of this size belongs."""
    rows, cols = (torch.arange(side) * grid // side for side in size)
    return rows[:, None] * grid + cols


@dataclass(frozen=True)
class Geometry(Checked):
    """Resize, then crop or pad the centre to `crop`.

    resize: px of the shorter side, or (rows, cols), which may change the aspect ratio; None keeps the size.
    crop: px of both sides, or (rows, cols).
    interpolation: of the resize, always antialiased.
    """

    resize: Size | None = 256
    crop: Size = 224
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("resize", "crop"):
            if isinstance(given := getattr(self, name), list):
                object.__setattr__(self, name, tuple(given))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and cols of the result."""
        return sides(self.crop)

    def at(self, size: Size | None) -> "Geometry":
        """The geometry for images of another size; itself for None.

        The resize of squares changes in proportion. Rectangles are resized to their size without a crop, as is usual in
        re-identification.
        """
        if size is None or sides(size) == self.size:
            return self
        rows, cols = sides(size)
        if rows != cols:
            return replace(self, resize=(rows, cols), crop=(rows, cols))
        if self.resize is None:
            return replace(self, crop=rows)
        if not isinstance(self.resize, int):
            return replace(self, resize=(rows, rows), crop=rows)
        return replace(self, resize=round(self.resize * rows / min(self.size)), crop=rows)

    def window(self, size: tuple[int, int]) -> Box:
        """The rectangle of an image of `size` (rows, cols) that the result shows, in pixels of that image.

        It extends beyond the image where the result is padded.
        """
        resized = size
        if isinstance(self.resize, int):
            rows, cols = (int(self.resize * side / min(size)) for side in size)  # as torchvision rounds
            resized = (rows, cols)
        elif self.resize is not None:
            resized = sides(self.resize)
        edges = []
        for side, scaled, crop in zip(size, resized, self.size, strict=True):
            start = -((crop - scaled) // 2) if crop > scaled else round((scaled - crop) / 2)
            edges.append((start * side / scaled, (start + crop) * side / scaled))
        (top, bottom), (left, right) = edges
        return left, top, right, bottom

    @cached_property
    def transform(self) -> v2.Transform:
        """The torchvision transform of image, box, mask and keypoints."""
        # Boxes are clipped first, so that none extends into the padding of a small image.
        mode = InterpolationMode(self.interpolation)
        to = self.resize if self.resize is None or isinstance(self.resize, int) else list(self.resize)
        resize = [] if to is None else [v2.Resize(to, mode, antialias=True)]
        return v2.Compose([v2.ClampBoundingBoxes(), *resize, v2.CenterCrop(self.size), TO_UNIT])

    def __call__(
        self,
        image: PIL.Image.Image,
        box: Box | None = None,
        mask: Bool[np.ndarray, "rows cols"] | None = None,
        keypoints: Float[np.ndarray, "parts 3"] | None = None,
    ) -> Sample:
        """Transform an RGB image and its marks; the mask "foreground" is the mask, else the filled box, else absent."""
        canvas = (image.height, image.width)
        marked: dict[str, Tensor] = {"image": tv_tensors.Image(image)}
        if mask is not None:
            marked["mask"] = tv_tensors.Mask(torch.from_numpy(mask))
        if box is not None:
            marked["box"] = tv_tensors.BoundingBoxes(
                torch.tensor([box], dtype=torch.float32), format="XYXY", canvas_size=canvas
            )
        if keypoints is not None:
            marked["keypoints"] = tv_tensors.KeyPoints(torch.from_numpy(keypoints[:, :2].copy()), canvas_size=canvas)
        out = {key: value.as_subclass(Tensor) for key, value in self.transform(marked).items()}

        masks = {}
        if box is not None:
            masks["foreground"] = masks["box"] = fill(out["box"][0], self.size)
        if mask is not None:
            masks["foreground"] = out["mask"].bool()
        points = None if keypoints is None else _visible(out["keypoints"], torch.from_numpy(keypoints[:, 2]), self.size)
        return Sample(image=out["image"], masks=masks, keypoints=points)


def sides(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Rows and cols of a size."""
    rows, cols = (size, size) if isinstance(size, int) else size
    return rows, cols


def describe_size(size: int | tuple[int, int] | list[int]) -> str:
    """Rows and cols in words, such as "256 x 128 px"."""
    return "{} x {} px".format(*sides(size))


def describe_geometry(geometry: Geometry) -> str:
    """A geometry in words, such as "resized to 256 (bilinear), cropped to 224 x 224 px"."""
    crop = f"cropped to {describe_size(geometry.crop)}"
    if geometry.resize is None:
        return crop
    to = geometry.resize if isinstance(geometry.resize, int) else describe_size(geometry.resize)
    return f"resized to {to} ({geometry.interpolation}), {crop}"


def fill(box: Float[Tensor, "4"], size: tuple[int, int]) -> Mask:
    """Mask (rows, cols) of the pixels whose centres lie inside a box."""
    rows, cols = (torch.arange(side, dtype=torch.float32) + 0.5 for side in size)
    x1, y1, x2, y2 = box
    return ((rows >= y1) & (rows < y2))[:, None] & ((cols >= x1) & (cols < x2))[None, :]


def _visible(xy: Float[Tensor, "parts 2"], flags: Float[Tensor, " parts"], size: tuple[int, int]) -> Keypoints:
    """Append the visibility column; keypoints that are hidden or outside the crop become (0, 0, 0)."""
    inside = (xy >= 0) & (xy < torch.tensor([size[1], size[0]]))
    visible = (flags > 0) & inside.all(dim=1)
    return torch.where(visible[:, None], torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1), 0.0)


STANDARD = Geometry()
