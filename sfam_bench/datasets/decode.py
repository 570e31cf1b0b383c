"""Image files, PIL images and arrays as 8-bit RGB, and masks as booleans: nothing else in the package decodes one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageOps
from jaxtyping import Bool, Float32, UInt8

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_regular

Orientation: TypeAlias = Literal["exif", "stored"]  # turned as the EXIF tag says, or the pixels as they are stored
MaskArray: TypeAlias = Bool[np.ndarray, "rows cols"]

TAG = 0x0112  # of EXIF: 1 is upright, 2 to 8 are mirrored or turned
TOPS = {"|b1": 1, "|u1": 255, "<u2": 65535}  # the largest value of a dtype
SCALED = ("PNG", "PPM")  # whose 16 bits PIL may open as mode I, scaled to 65535
SHARES = 5  # of CUB's segmentations: the levels are how many of five annotators marked a pixel

log = logging.getLogger(__name__)


def open_image(
    path: Path, orientation: Orientation = "exif", background: str = "white", marked: bool = False
) -> PIL.Image.Image:
    """Read an image file whole, as `as_rgb`; raises UserError where it is absent, broken or ambiguous."""
    with _open_checked(path) as image:
        return to_rgb(image, str(path), orientation, background, marked)


def open_mask(path: Path, orientation: Orientation = "exif") -> MaskArray:
    """Read a mask from a file, as `as_mask`."""
    with _open_checked(path) as image:
        return to_mask(image, f"mask {path}", orientation)


def to_rgb(
    image: PIL.Image.Image,
    what: str,
    orientation: Orientation = "exif",
    background: str = "white",
    marked: bool = False,
) -> PIL.Image.Image:
    """A PIL image in any mode as 8-bit RGB; raises UserError where it can be read in more than one way.

    Grey of 16 bits is divided by 257, floats must lie in [0, 1]; other integers are refused, and so are files of
    several pictures, but for the first of a phone's (MPO).

    what: names it in errors.
    orientation: "exif" turns it as its EXIF tag says; "stored" leaves the pixels as they are in the file.
    background: what shows through transparent pixels: a colour as PIL names it, such as "white" or "#808080".
    marked: whether a box, mask or keypoints are given in its pixels; then a picture that its tag turns is refused.
    """
    colour = parse_colour(background)
    turned = _load_and_check_turn(image, what, orientation)
    if turned and marked:
        raise UserError(
            f"{what} is turned by its EXIF tag, so what is marked on it may be in turned or in stored pixels: save it "
            "upright (PIL.ImageOps.exif_transpose) and mark it there; a data set may set orientation=stored"
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
    """A PIL image in black and white, in grey or of labels 0 and 1 as a mask, by `mask_of`."""
    if _load_and_check_turn(image, what, orientation):
        raise UserError(f"{what} is turned by its EXIF tag: save it upright, as large as its image")
    if image.has_transparency_data:
        raise UserError(f"{what} has transparent pixels: save it in black and white alone")
    if image.mode == "F" or image.mode.startswith("I"):
        return levels_to_mask(np.asarray(image), what)
    channels = np.asarray(image.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise UserError(f"{what} is in colours: save it in black and white, white inside")
    return levels_to_mask(channels[..., 0], what)


def levels_to_mask(values: np.ndarray, what: str) -> MaskArray:
    """Levels as a mask: of 0 and 1 the ones are inside, else what is lighter than half of white (255 or 65535).

    Raises UserError for what may be labels: nothing light beside 0, or white beside levels below 51. CUB's shares of
    five annotators, multiples of 51, are no labels: the majority decides.
    """
    if values.dtype == bool:
        return values
    levels = np.unique(values) if values.dtype.kind in "iuf" else np.array([])
    if values.size and not (levels.size and np.isin(levels, np.arange(65536)).all()):
        raise UserError(f"{what} holds {values.dtype} other than levels from 0: give bools, such as mask > 0.5")
    marks = levels[levels > 0].astype(np.int64)  # doubled below
    if not marks.size or marks.max() == 1:
        return np.asarray(values == 1)
    white = 255 if marks.max() <= 255 else 65535
    light = marks[2 * marks > white]
    shares = len(marks) > 1 and not (SHARES * marks % white).any()
    border = light.size and light.min() == white and marks.min() * SHARES < white
    if border or not (light.size or shares):
        shown = ", ".join(f"{level:g}" for level in levels[:4])
        raise UserError(f"{what} has the levels {shown}, which may be labels: save it as 0 and 255, or 0 and 1")
    return np.asarray(2 * values.astype(np.float64) > white)


def array_to_rgb(values: np.ndarray, what: str, background: str = "white") -> PIL.Image.Image:
    """An array (rows, cols), (rows, cols, 3) or, with alpha, (rows, cols, 4) as 8-bit RGB, its values by `unit`."""
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise UserError(f"{what} is an array of {values.shape}: expected (rows, cols) or (rows, cols, 3 or 4)")
    levels = (255 * scale_to_unit(values, what)).round().astype(np.uint8)
    return to_rgb(PIL.Image.fromarray(levels), what, background=background)


def scale_to_unit(values: np.ndarray, what: str) -> Float32[np.ndarray, "..."]:
    """Pixels in [0, 1]: uint8, uint16 and bool by their largest value, floats as they are; else UserError."""
    if top := TOPS.get(values.dtype.str):
        return values.astype(np.float32) / np.float32(top)
    if values.dtype.kind != "f":
        raise UserError(f"{what} is of {values.dtype}: give uint8, uint16, bool, or floats in [0, 1]")
    if not np.isfinite(values).all():
        raise UserError(f"{what} has pixels that are NaN or infinite: give RGB in [0, 1]")
    low, high = (_format_outlier(float(end)) for end in (values.min(), values.max()))
    if values.min() < 0 or values.max() > 1:
        raise UserError(f"{what} lies in [{low}, {high}]: give RGB in [0, 1]; the model standardises it itself")
    return values.astype(np.float32, copy=False)


def parse_colour(background: str) -> tuple[int, ...]:
    """An opaque colour by its name in PIL; raises UserError where there is none."""
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
            image.verify()  # the checksums of its chunks, which decoding does not look at; it closes the file
            image = PIL.Image.open(path)
        with image:
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: check the path, or load the data set anew to leave it out") from None
    except Exception as error:  # decoders raise whatever a damaged byte leads to
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {path} ({why}): copy it again, or delete it to leave it out") from None


def _load_and_check_turn(image: PIL.Image.Image, what: str, orientation: Orientation) -> bool:
    """Load a picture, which must be one alone, and say whether it is to be turned or mirrored, as its EXIF tag says."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{what} holds {frames} pictures: save the one that you mean as a file of its own")
    before = _read_orientation(image, what) if image.format == "TIFF" else 1  # loading turns it
    image.load()
    turned = {before, _read_orientation(image, what)} & set(range(2, 9))
    if turned and orientation == "stored" and image.format == "TIFF":
        raise UserError(f"{what} is a TIFF that its tag turns and cannot be read as it is stored: save it upright")
    return bool(turned) and orientation == "exif"


def _read_orientation(image: PIL.Image.Image, what: str) -> int:
    try:
        tag: int = image.getexif().get(TAG, 1)
    except Exception as error:  # EXIF data is read by hand, and may hold anything
        log.warning("the EXIF data of %s cannot be read (%s): its pixels are taken as they are stored", what, error)
        return 1
    return tag


def _eight_bits(image: PIL.Image.Image, what: str, kind: str | None) -> UInt8[np.ndarray, "rows cols"]:
    """Grey of more bits; `kind` is the format of the file."""
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
        raise UserError(f"{what} has 16 bits and no value above {high}, so it may hold 8: save it as such, or scale it")
    return np.asarray((values / 257).round(), dtype=np.uint8)


def _format_outlier(value: float) -> str:
    """A number with three digits, or all where these would say another side of 0 or 1."""
    short = f"{value:.3g}"
    return short if (0 <= value <= 1) == (0 <= float(short) <= 1) else repr(value)
