"""What a caller has in hand, as the model takes it: files, PIL images and tensors; masks and boxes beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from sfam_bench.datasets.folder import one_line, open_image
from sfam_bench.datasets.geometry import Box, Geometry, fill
from sfam_bench.errors import UserError
from sfam_bench.records import PairBatch, Sample
from sfam_bench.types import Image

Picture: TypeAlias = str | Path | PIL.Image.Image | Tensor
Region: TypeAlias = str | Path | PIL.Image.Image | np.ndarray | Tensor  # of the object; light, or true, is inside
Corners: TypeAlias = Sequence[float | int]  # x1, y1, x2, y2


def pair(
    query: Picture, reference: Picture, size: int, foreground: Region | None = None, box: Corners | None = None
) -> PairBatch:
    """Two images and the object of the query, in pixels of the picture that was given; cut to `size` unless a tensor.

    Raises UserError where they are no images of one size.
    """
    found, other = sample(query, "query", size, foreground, box), sample(reference, "reference", size)
    shapes = [tuple(one.image.shape) for one in (found, other)]
    if shapes[0] != shapes[1]:
        raise UserError(f"query is {shapes[0]} and reference {shapes[1]}: give both one size, or files, which are cut")
    masks = {name: mask[None] for name, mask in found.masks.items()}
    return PairBatch(("query",), ("reference",), found.image[None], other.image[None], masks=masks)


def sample(
    picture: Picture, what: str, size: int, foreground: Region | None = None, box: Corners | None = None
) -> Sample:
    """One image with what is marked on it; raises UserError where it is none."""
    if isinstance(picture, Tensor):
        image = _tensor(picture, what)
        rows, cols = image.shape[-2:]
        masks = {}
        if box is not None:
            filled = fill(torch.tensor(_box(box, (rows, cols)), dtype=torch.float32), max(rows, cols))
            masks["foreground"] = masks["box"] = filled[:rows, :cols]
        if foreground is not None:
            masks["foreground"] = torch.from_numpy(_mask(foreground, (rows, cols)))
        return Sample(image, masks)
    opened = _opened(picture, what)
    shape = (opened.height, opened.width)
    mask = None if foreground is None else _mask(foreground, shape)
    return Geometry(round(size * 256 / 224), size)(opened, None if box is None else _box(box, shape), mask)


def _opened(picture: str | Path | PIL.Image.Image, what: str) -> PIL.Image.Image:
    if isinstance(picture, str | Path):
        if not (path := Path(picture).expanduser()).exists():
            raise UserError(f"{what} {path} is missing: check the path")
        return open_image(path)
    if not isinstance(picture, PIL.Image.Image):
        raise UserError(f"{what} is of type {type(picture).__name__}: give a path, a PIL image or a tensor")
    try:
        return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # the file behind it is read only now
        raise UserError(f"cannot read {what} ({one_line(error)}): open an image that is whole") from None


def _tensor(picture: Tensor, what: str) -> Image:
    if picture.ndim != 3 or len(picture) != 3 or not picture.numel() or not picture.is_floating_point():
        shape = f"{tuple(picture.shape)} of {str(picture.dtype).removeprefix('torch.')}"
        raise UserError(f"{what} is {shape}: an image tensor must be floats of shape (3, rows, cols) in [0, 1]")
    image = picture.detach().float().cpu()
    if not image.isfinite().all():
        raise UserError(f"{what} has pixels that are NaN or infinite: give RGB in [0, 1]")
    low, high = image.min().item(), image.max().item()
    if low < 0 or high > 1:
        raise UserError(f"{what} lies in [{low:.3g}, {high:.3g}]: give RGB in [0, 1]; the model standardises it itself")
    return image


def _mask(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """True where the object is; raises UserError where the mask is not of its image's shape (rows, cols)."""
    if isinstance(region, np.ndarray | Tensor):
        array = np.asarray(region.detach().cpu() if isinstance(region, Tensor) else region)
        if array.dtype != bool:
            raise UserError(f"foreground is an array of {array.dtype}: give one of bool, such as mask > 0.5")
        mask = array
    else:
        opened = open_image(Path(region).expanduser(), "L") if isinstance(region, str | Path) else region.convert("L")
        mask = np.asarray(opened) > 127
    if mask.shape != shape:
        raise UserError(f"foreground is {mask.shape} and its image {shape} (rows, cols): give a mask of the same size")
    return mask


def _box(box: Corners, shape: tuple[int, int]) -> Box:
    """The box as floats; raises UserError where it encloses nothing of its image."""
    try:
        x1, y1, x2, y2 = (float(edge) for edge in box)
    except (TypeError, ValueError):
        raise UserError(f"box is {box!r}: give x1, y1, x2, y2 in pixels of the query") from None
    rows, cols = shape
    if not (max(x1, 0) < min(x2, cols) and max(y1, 0) < min(y2, rows)):
        raise UserError(f"box {(x1, y1, x2, y2)} holds nothing of the {cols} x {rows} query: give x1, y1, x2, y2 in px")
    return x1, y1, x2, y2
