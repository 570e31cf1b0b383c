"""Convert a caller's files, bytes, PIL images, arrays and tensors, with masks and boxes, to inputs of a model."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.geometry import Box, Geometry, fill
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Image
from sfam_bench.datasets.checks import clip_box
from sfam_bench.datasets.decode import (
    array_to_rgb,
    decode_bytes,
    levels_to_mask,
    open_image,
    open_mask,
    scale_to_unit,
    to_mask,
    to_rgb,
)

Picture: TypeAlias = str | Path | bytes | PIL.Image.Image | np.ndarray | Tensor
Region: TypeAlias = str | Path | PIL.Image.Image | np.ndarray | Tensor  # the object is light, true or 1
Corners: TypeAlias = Sequence[float | int]  # x1, y1, x2, y2
CHANNELS = (1, 3, 4)  # of grey, RGB, and RGB with alpha


def sample(
    picture: Picture,
    what: str,
    geometry: Geometry,
    foreground: Region | None = None,
    box: Corners | None = None,
    background: str = "white",
) -> Sample:
    """Convert one image with its marks to a sample; raises UserError if it is invalid."""
    if isinstance(picture, Tensor):
        tensor = tensor_to_image(picture, what)
        rows, cols = tensor.shape[-2:]
        masks = {}
        if box is not None:
            corners = torch.tensor(_box(box, (rows, cols)), dtype=torch.float32)
            masks["foreground"] = masks["box"] = fill(corners, (rows, cols))
        if foreground is not None:
            masks["foreground"] = torch.from_numpy(_mask(foreground, (rows, cols)))
        return Sample(tensor, masks)
    image = open_picture(picture, what, background, marked=not (foreground is None and box is None))
    shape = (image.height, image.width)
    mask = None if foreground is None else _mask(foreground, shape)
    return geometry(image, None if box is None else _box(box, shape), mask)


def open_picture(
    picture: str | Path | bytes | PIL.Image.Image | np.ndarray, what: str, background: str, marked: bool = False
) -> PIL.Image.Image:
    """Read a picture at its own size as 8-bit RGB; raises UserError if it is invalid."""
    if isinstance(picture, str | Path):
        if str(picture).startswith(("http:/", "https:/")):
            raise UserError(f"{what} {picture} is an address: download it, and give the path or the bytes")
        if not (path := Path(picture).expanduser()).exists():
            raise UserError(f"{'' if what == str(picture) else f'{what} '}{path} is missing: check the path")
        return open_image(path, background=background, marked=marked)
    if isinstance(picture, np.ndarray):
        return array_to_rgb(channels_last(picture, what), what, background)
    if isinstance(picture, bytes):
        return decode_bytes(picture, what, background, marked)
    if not isinstance(picture, PIL.Image.Image):
        raise UserError(
            f"{what} is of type {type(picture).__name__}: give a path, bytes of a file, a PIL image, an array or a "
            "tensor"
        )
    try:
        return to_rgb(picture, what, background=background, marked=marked)
    except (OSError, SyntaxError, ValueError) as error:  # PIL reads the file only now
        raise UserError(f"cannot read {what} ({one_line(error)}): open an undamaged image") from None


def digest(picture: object) -> str:
    """Eight hexadecimal digits of the values of a picture, or of a tensor; "unreadable" if it has none."""
    if isinstance(picture, bytes):
        return sha256(picture).hexdigest()[:8]
    try:
        values = _to_array(picture) if isinstance(picture, Tensor) else np.asarray(picture)
    except (OSError, SyntaxError, TypeError, ValueError):  # a damaged PIL image; `sample` says what is wrong
        return "unreadable"
    return sha256(f"{values.shape} {values.dtype}".encode() + values.tobytes()).hexdigest()[:8]


def channels_last(values: np.ndarray, what: str) -> np.ndarray:
    """Bring an array to (rows, cols) or (rows, cols, channels).

    A batch of one image is that image; one channel is grey. Raises UserError if both the first and the last axis may be
    the channels.
    """
    shape = values.shape
    if values.ndim == 4:
        check_one(len(values), what)
        values = values[0]
    if values.ndim == 3:
        first, last = (size in CHANNELS for size in (values.shape[0], values.shape[2]))
        if first and last:
            raise UserError(f"{what} is an array of {shape}, whose channels may be first or last: give a PIL image")
        values = np.moveaxis(values, 0, 2) if first else values
        values = values[..., 0] if values.shape[2] == 1 else values
    return values


def tensor_to_image(picture: Tensor, what: str) -> Image:
    """Scale a tensor (3, rows, cols), (1, rows, cols) if grey, or a batch of one, to [0, 1]; its size is kept."""
    shape = f"{tuple(picture.shape)} of {str(picture.dtype).removeprefix('torch.')}"
    if picture.ndim == 4 and len(picture):
        check_one(len(picture), what)
        picture = picture[0]
    if picture.ndim != 3 or len(picture) not in (1, 3) or not picture.numel():
        raise UserError(f"{what} is {shape}: an image tensor must have the shape (3, rows, cols){_hint(picture)}")
    return torch.from_numpy(scale_to_unit(_to_array(picture.expand(3, -1, -1)), what))


def check_one(images: int, what: str) -> None:
    """Raise UserError unless a batch holds one image."""
    if images != 1:
        raise UserError(f"{what} is a batch of {images} images, and one is expected: give one, such as batch[0]")


def _hint(picture: Tensor) -> str:
    if picture.ndim == 3 and picture.shape[2] in (3, 4):
        return "; permute(2, 0, 1) puts the channels first"
    if picture.ndim == 3 and len(picture) == 4:
        return "; a PIL image or an array may have transparency"
    return ""


def _to_array(values: Tensor) -> np.ndarray:
    """The values on the CPU, of any floating type as float32."""
    array: np.ndarray = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    return array


def _mask(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """Read a mask; raises UserError if it does not have its image's shape (rows, cols)."""
    if isinstance(region, Tensor):
        region = _to_array(region)
    if isinstance(region, np.ndarray):
        mask = levels_to_mask(region, "foreground")
    elif isinstance(region, PIL.Image.Image):
        mask = to_mask(region, "foreground")
    else:
        mask = open_mask(Path(region).expanduser())
    if mask.shape != shape:
        raise UserError(f"foreground is {mask.shape} and its image {shape} (rows, cols): give a mask of the same size")
    return mask


def _box(box: Corners, shape: tuple[int, int]) -> Box:
    """Convert a box to floats; raises UserError if it does not overlap its image."""
    try:
        x1, y1, x2, y2 = (float(edge) for edge in box)
    except (TypeError, ValueError):
        raise UserError(f"box is {box!r}: give x1, y1, x2, y2 in pixels of the query") from None
    rows, cols = shape
    if not (max(x1, 0) < min(x2, cols) and max(y1, 0) < min(y2, rows)):
        raise UserError(
            f"box {(x1, y1, x2, y2)} does not overlap the {cols} x {rows} query: give x1, y1, x2, y2 in pixels"
        )
    clipped = clip_box((x1, y1, x2, y2), (cols, rows), "the query")
    assert clipped is not None
    return clipped
