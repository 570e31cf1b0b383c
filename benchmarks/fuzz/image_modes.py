"""Formats and modes of pictures, each with what it shows."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL.Image

SIDE = 64
Way = Callable[[np.ndarray, Random, Path], tuple[str, Any, Any]]  # words, picture, what it shows


def pixels() -> np.ndarray:
    """A colourful picture that is no square, and looks otherwise when it is turned."""
    rows, cols = np.mgrid[0:SIDE, 0 : SIDE + 16]
    channels = [rows * 3 % 256, cols * 3 % 256, (rows * cols // 16) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def grey(plain: np.ndarray) -> np.ndarray:
    """As grey as PIL makes it."""
    return np.asarray(PIL.Image.fromarray(plain).convert("L"))


def shown(one: np.ndarray) -> np.ndarray:
    """A grey picture in three channels."""
    return np.stack([one] * 3, axis=-1)


def options(webp: bool) -> dict[str, Any]:
    """Of saving, so that no colour is lost, hidden ones included."""
    return {"lossless": True, "exact": True} if webp else {}


def grey_modes(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """Grey in 8 and 16 bits, whole and real numbers."""
    one = grey(plain)
    how = random.choice(("L", "I;16 png", "I;16 tiff", "I", "F", "F in 0 to 1", "LA", "1", "I tiff", "F tiff"))
    wide = one.astype(np.uint16) * 257
    made = {
        "L": PIL.Image.fromarray(one),
        "I": PIL.Image.fromarray(wide.astype(np.int32)),
        "F": PIL.Image.fromarray(one.astype(np.float32)),
        "F in 0 to 1": PIL.Image.fromarray(one.astype(np.float32) / 255),
        "LA": PIL.Image.fromarray(one).convert("LA"),
        "1": PIL.Image.fromarray(one > 127),
    }
    if how in made:
        return f"mode {how}", made[how], shown((one > 127).astype(np.uint8) * 255 if how == "1" else one)
    path = folder / f"grey.{how.split()[-1]}"
    kinds: dict[str, np.ndarray] = {"I;16": wide, "I": wide.astype(np.int32), "F": one.astype(np.float32)}
    PIL.Image.fromarray(kinds[how.split()[0]]).save(path)
    return f"file of mode {how}", path, shown(one)


def colour_modes(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """Other models of colour, exactly or nearly the same picture."""
    how = random.choice(
        ("RGBA", "RGBX", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBa", "PNG", "WEBP", "BMP", "GIF", "TIFF", "CMYK jpg")
    )
    image = PIL.Image.fromarray(plain)
    if how == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return "mode LAB", ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), plain
    if how == "P":
        few = image.quantize(32)
        return "mode P", few, np.asarray(few.convert("RGB"))
    if how in ("PNG", "WEBP", "BMP", "GIF", "TIFF", "CMYK jpg"):
        path = folder / f"picture.{how.split()[-1].lower()}"
        (image.convert("CMYK") if "CMYK" in how else image).save(path, **options(how == "WEBP"))
        with PIL.Image.open(path) as again:
            return f"file {how}", path, np.asarray(again.convert("RGB"))
    other = image.convert("RGBA").convert(how) if how == "RGBa" else image.convert(how)
    return f"mode {how}", other, np.asarray(other.convert("RGB") if how != "RGBa" else image)


def alpha(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """Part of the picture is transparent: its hidden colours do not count, and the background is white."""
    hidden = random.random() < 0.5
    see = np.full(plain.shape[:2], 255, np.uint8)
    see[10:40, 20:60] = random.choice((0, 0, 128))
    colours = plain.copy()
    if hidden:
        colours[see == 0] = (255, 0, 255)
    image = PIL.Image.fromarray(np.dstack([colours, see]))
    white = PIL.Image.new("RGBA", image.size, "white")
    expected = np.asarray(PIL.Image.alpha_composite(white, image).convert("RGB"))
    how = random.choice(("object", "png", "palette", "webp", "key"))
    if how == "object":
        return "RGBA with a hole", image, expected
    path = folder / f"hole.{'webp' if how == 'webp' else 'png'}"
    if how == "palette":
        few = image.quantize(64)
        few.save(path)
        with PIL.Image.open(path) as again:
            expected = np.asarray(PIL.Image.alpha_composite(white, again.convert("RGBA")).convert("RGB"))
    elif how == "key":
        PIL.Image.fromarray(plain).save(path, transparency=tuple(int(v) for v in plain[5, 5]))
        match = (plain == plain[5, 5]).all(axis=-1)
        expected = np.where(match[..., None], 255, plain).astype(np.uint8)
    else:
        image.save(path, **options(how == "webp"))
    return f"a hole, {how}", path, expected


def exif(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """A camera's orientation tag."""
    tag = random.randrange(1, 9)
    path = folder / f"photo.{random.choice(('jpg', 'png', 'webp'))}"
    image = PIL.Image.fromarray(plain)
    data = PIL.Image.Exif()
    data[0x0112] = tag
    more: dict[str, Any] = (
        {"quality": 95} if path.suffix == ".jpg" else {"lossless": True} if path.suffix == ".webp" else {}
    )
    image.save(path, exif=data, **more)
    turns = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_270",
        7: "TRANSVERSE",
        8: "ROTATE_90",
    }
    with PIL.Image.open(path) as again:
        stored = again.convert("RGB")
    turned = stored if tag == 1 else stored.transpose(PIL.Image.Transpose[turns[tag]])
    return f"EXIF orientation {tag} in {path.suffix}", path, np.asarray(turned)


WAYS: tuple[Way, ...] = (grey_modes, colour_modes, alpha, exif)
