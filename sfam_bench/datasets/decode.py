"""Decode image files, PIL images and arrays to 8-bit RGB, and masks to booleans; no other module decodes images."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageOps
from jaxtyping import Bool, Float32, UInt8

from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.files import check_regular

Orientation: TypeAlias = Literal["exif", "stored"]  # rotated by the EXIF tag, or the stored pixels
MaskArray: TypeAlias = Bool[np.ndarray, "rows cols"]

TAG = 0x0112  # EXIF orientation: 1 is upright, 2 to 8 are mirrored or rotated
TOPS = {"|b1": 1, "|u1": 255, "<u2": 65535}  # the largest value of a dtype
SCALED = ("PNG", "PPM")  # formats whose 16 bits PIL may open as mode I, scaled to 65535
SHARES = 5  # annotators of CUB's segmentations; levels are the number of them that marked a pixel

log = logging.getLogger(__name__)


def open_image(
    path: Path, orientation: Orientation = "exif", background: str = "white", marked: bool = False
) -> PIL.Image.Image:
    """Read an image file as `to_rgb` does; raises UserError if it is absent, damaged or ambiguous."""
    with _open_checked(path) as image:
        return to_rgb(image, str(path), orientation, background, marked)


def decode_bytes(content: bytes, what: str, background: str = "white", marked: bool = False) -> PIL.Image.Image:
    """Read the bytes of an image file as `to_rgb` does; raises UserError if they are damaged or ambiguous."""
    try:
        with PIL.Image.open(BytesIO(content)) as image:
            if image.format == "PNG":
                image.verify()  # as for files; verify leaves the image unusable
        with PIL.Image.open(BytesIO(content)) as image:
            return to_rgb(image, what, background=background, marked=marked)
    except UserError:
        raise
    except Exception as error:  # decoders raise anything for damaged files
        raise UserError(f"cannot read {what} ({_describe(error)}): give the bytes of an undamaged image") from None


def open_mask(path: Path, orientation: Orientation = "exif") -> MaskArray:
    """Read a mask file as `to_mask` does."""
    with _open_checked(path) as image:
        return to_mask(image, f"mask {path}", orientation)


def to_rgb(
    image: PIL.Image.Image,
    what: str,
    orientation: Orientation = "exif",
    background: str = "white",
    marked: bool = False,
) -> PIL.Image.Image:
    """Convert a PIL image of any mode to 8-bit RGB; raises UserError if it is ambiguous.

    16-bit grey is divided by 257; floats must lie in [0, 1]; other integers are refused, and files of several images
    too, except MPO files of phones, of which the first image is read.

    what: the image's name in errors.
    orientation: "exif" rotates or mirrors it by its EXIF tag; "stored" keeps the pixels of the file.
    background: the colour behind transparent pixels, by its name in PIL, such as "white" or "#808080".
    marked: whether a box, mask or keypoints are given in its pixels; then an image rotated by its tag is refused.
    """
    colour = parse_colour(background)
    turned = _load_and_check_turn(image, what, orientation)
    if turned and marked:
        raise UserError(
            f"{what} is turned by its EXIF tag, so its box or mask may be in turned or in stored pixels: save it "
            "upright (PIL.ImageOps.exif_transpose) and mark it again; data sets may set orientation=stored"
        )
    mode, kind = image.mode, image.format
    if turned:
        image = PIL.ImageOps.exif_transpose(image)
    if mode == "F" or mode.startswith("I"):
        return PIL.Image.fromarray(_eight_bits(image, what, kind)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.info.get("transparency", 0)
    if not isinstance(clear, bytes) and np.max(clear) > 255:
        raise UserError(f"{what} has a transparent colour of 16 bits: save it with an alpha channel, or without")
    under = PIL.Image.new("RGBA", image.size, colour)
    return PIL.Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")


def to_mask(image: PIL.Image.Image, what: str, orientation: Orientation = "exif") -> MaskArray:
    """Convert a PIL image in black and white, grey, or with labels 0 and 1 by `levels_to_mask`."""
    if _load_and_check_turn(image, what, orientation):
        raise UserError(f"{what} is turned by its EXIF tag: save it upright, with the size of its image")
    if image.has_transparency_data:
        raise UserError(f"{what} has transparent pixels: save it in black and white")
    if image.mode == "F" or image.mode.startswith("I"):
        return levels_to_mask(np.asarray(image), what)
    channels = np.asarray(image.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise UserError(f"{what} is in colours: save it in black and white, white inside")
    return levels_to_mask(channels[..., 0], what)


def levels_to_mask(values: np.ndarray, what: str) -> MaskArray:
    """Convert levels to a mask: 1 of levels 0 and 1, otherwise levels above half of white (255 or 65535).

    Raises UserError for levels that may be labels: no level above half, or white together with levels below 51. CUB's
    shares of five annotators, multiples of 51, are accepted: the majority decides.
    """
    if values.dtype == bool:
        return values
    levels = np.unique(values) if values.dtype.kind in "iuf" else np.array([])
    if values.size and not (levels.size and np.isin(levels, np.arange(65536)).all()):
        raise UserError(f"{what} holds {values.dtype} other than levels from 0: give bools, such as mask > 0.5")
    levels_inside = levels[levels > 0].astype(np.int64)  # int64, as it is doubled below
    if not levels_inside.size or levels_inside.max() == 1:
        return np.asarray(values == 1)
    white = 255 if levels_inside.max() <= 255 else 65535
    light = levels_inside[2 * levels_inside > white]
    shares = len(levels_inside) > 1 and not (SHARES * levels_inside % white).any()
    border = light.size and light.min() == white and levels_inside.min() * SHARES < white
    if border or not (light.size or shares):
        shown = ", ".join(f"{level:g}" for level in levels[:4])
        raise UserError(f"{what} has the levels {shown}, which may be labels: save it as 0 and 255, or 0 and 1")
    return np.asarray(2 * values.astype(np.float64) > white)


def array_to_rgb(values: np.ndarray, what: str, background: str = "white") -> PIL.Image.Image:
    """Convert an array (rows, cols) or (rows, cols, 3 or, with alpha, 4) to 8-bit RGB; values as in `scale_to_unit`."""
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise UserError(f"{what} is an array of {values.shape}: expected (rows, cols) or (rows, cols, 3 or 4)")
    levels = (255 * scale_to_unit(values, what)).round().astype(np.uint8)
    return to_rgb(PIL.Image.fromarray(levels), what, background=background)


def scale_to_unit(values: np.ndarray, what: str) -> Float32[np.ndarray, "..."]:
    """Scale uint8, uint16 and bool to [0, 1]; floats are returned as float32; UserError if values are out of range."""
    if top := TOPS.get(values.dtype.str):
        return values.astype(np.float32) / np.float32(top)
    if values.dtype.kind != "f":
        raise UserError(f"{what} is of {values.dtype}: give uint8, uint16, bool, or floats in [0, 1]")
    if not np.isfinite(values).all():
        raise UserError(f"{what} has pixels that are NaN or infinite: give RGB in [0, 1]")
    low, high = (_format_outlier(float(end)) for end in (values.min(), values.max()))
    if values.min() < 0 or values.max() > 1:
        bytes_ = " (of 0 to 255: divide by 255, or give uint8)" if values.min() >= 0 and values.max() > 2 else ""
        raise UserError(f"{what} lies in [{low}, {high}]: give RGB in [0, 1]; the model standardises it{bytes_}")
    return values.astype(np.float32, copy=False)


def parse_colour(background: str) -> tuple[int, ...]:
    """Parse an opaque colour by its name in PIL; raises UserError if it is unknown or transparent."""
    try:
        colour: tuple[int, ...] = PIL.ImageColor.getrgb(background)
    except (ValueError, AttributeError, TypeError):
        colour = ()
    if len(colour) != 3:
        raise UserError(f"background is {background!r}: give an opaque colour, such as white or #808080")
    return *colour, 255


@contextmanager
def _open_checked(path: Path) -> Iterator[PIL.Image.Image]:
    try:
        image = PIL.Image.open(check_regular(path))
        if image.format == "PNG":
            image.verify()  # decoding does not check the checksums of chunks; verify closes the file
            image = PIL.Image.open(path)
        with image:
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: check the path, or load the data set again to skip it") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give an image file") from None
    except Exception as error:  # decoders raise anything for damaged files
        raise UserError(f"cannot read {path} ({_describe(error)}): copy it again, or delete it to skip it") from None


def _describe(error: Exception) -> str:
    """Why an image cannot be read, on one line."""
    if isinstance(error, PIL.UnidentifiedImageError):  # its message names an object or repeats the path
        return "it has no known image format"
    return one_line(error)


def _load_and_check_turn(image: PIL.Image.Image, what: str, orientation: Orientation) -> bool:
    """Load a single image and return whether its EXIF tag asks to rotate or mirror it; UserError for several."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{what} holds {frames} pictures: save the one to use as a separate file")
    before = _read_orientation(image, what) if image.format == "TIFF" else 1  # PIL rotates it on loading
    image.load()
    turned = {before, _read_orientation(image, what)} & set(range(2, 9))
    if turned and orientation == "stored" and image.format == "TIFF":
        raise UserError(f"{what} is a TIFF turned by its EXIF tag, whose stored pixels cannot be read: save it upright")
    return bool(turned) and orientation == "exif"


def _read_orientation(image: PIL.Image.Image, what: str) -> int:
    try:
        tag: int = image.getexif().get(TAG, 1)
    except Exception as error:  # EXIF data may hold anything
        log.warning("cannot read the EXIF data of %s (%s): using its stored pixels", what, error)
        return 1
    return tag


def _eight_bits(image: PIL.Image.Image, what: str, kind: str | None) -> UInt8[np.ndarray, "rows cols"]:
    """Convert grey of more than 8 bits; `kind` is the format of the file."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if "transparency" in image.info:
        raise UserError(f"{what} has a transparent colour of 16 bits: save it with an alpha channel, or without")
    if image.mode == "F":
        if not (low >= 0 and high <= 1):
            raise UserError(f"{what} holds floats from {low:g} to {high:g} of no stated range: scale them to [0, 1]")
        return np.asarray((255 * values).round(), dtype=np.uint8)
    if image.mode == "I" and kind not in SCALED:
        raise UserError(f"{what} holds 32-bit integers of no stated range: save it with 8 or 16 bits")
    if 0 < high < 256:
        raise UserError(
            f"{what} has 16 bits and no value above {high}, so it may hold 8: save it with 8 bits, or scale it"
        )
    return np.asarray((values / 257).round(), dtype=np.uint8)


def _format_outlier(value: float) -> str:
    """A number with three digits, or with all if rounding would move it into or out of [0, 1]."""
    short = f"{value:.3g}"
    return short if (0 <= value <= 1) == (0 <= float(short) <= 1) else repr(value)
