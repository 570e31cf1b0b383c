"""Resize and crop images together with boxes, masks and keypoints; no other module resizes images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count, Share
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Image, Keypoints, Mask

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, far edges exclusive
TO_UNIT = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)


@dataclass(frozen=True)
class Geometry(Checked):
    """Resize the shorter side to `resize` pixels (None: keep), then crop or pad the centre to `crop` x `crop`.

    squash: resize both sides to `resize`, whatever the shape of the image.
    """

    resize: Count | None = 256
    crop: Count = 224
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @cached_property
    def transform(self) -> v2.Transform:
        """The torchvision transform of image, box, mask and keypoints."""
        # Boxes are clipped first, so that none extends into the padding of a small image.
        size = [self.resize, self.resize] if self.squash else self.resize
        how = v2.InterpolationMode(self.interpolation)
        resize = [] if self.resize is None else [v2.Resize(size, interpolation=how, antialias=True)]
        return v2.Compose([v2.ClampBoundingBoxes(), *resize, v2.CenterCrop(self.crop), TO_UNIT])

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
            masks["foreground"] = masks["box"] = fill(out["box"][0], self.crop)
        if mask is not None:
            masks["foreground"] = out["mask"].bool()
        points = None if keypoints is None else _visible(out["keypoints"], torch.from_numpy(keypoints[:, 2]), self.crop)
        return Sample(image=out["image"], masks=masks, keypoints=points)


@dataclass(frozen=True)
class Augmentation(Checked):
    """Random crop of an area share in `scale`, resized to `crop` x `crop`, and random flips; for training.

    jitter: largest relative change of brightness, contrast and saturation, each drawn at random.
    """

    crop: Count = 224
    scale: Sequence[Share] = (0.16, 1.0)
    flip: bool = True
    jitter: Share = 0.0

    @cached_property
    def transform(self) -> v2.Transform:
        """The torchvision transform; it uses torch's global generator."""
        steps = [v2.RandomResizedCrop(self.crop, scale=tuple(self.scale), antialias=True)]
        jitter = [v2.ColorJitter(self.jitter, self.jitter, self.jitter)] if self.jitter else []
        return v2.Compose([*steps, *jitter, v2.RandomHorizontalFlip(0.5 if self.flip else 0.0), TO_UNIT])

    def __call__(
        self, image: PIL.Image.Image | UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    ) -> Image:
        """Draw one augmented view (3, crop, crop) in [0, 1] from an RGB image of any size."""
        return self.transform(tv_tensors.Image(image)).as_subclass(Tensor)


def fill(box: Float[Tensor, "4"], size: int) -> Mask:
    """Mask of the pixels whose centres lie inside a box; (size, size)."""
    centres = torch.arange(size) + 0.5
    x1, y1, x2, y2 = box
    return ((centres >= y1) & (centres < y2))[:, None] & ((centres >= x1) & (centres < x2))[None, :]


def _visible(xy: Float[Tensor, "parts 2"], flags: Float[Tensor, " parts"], size: int) -> Keypoints:
    """Append the visibility column; keypoints that are hidden or outside the crop become (0, 0, 0)."""
    visible = (flags > 0) & ((xy >= 0) & (xy < size)).all(dim=1)
    return torch.where(visible[:, None], torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1), 0.0)


STANDARD = Geometry()
