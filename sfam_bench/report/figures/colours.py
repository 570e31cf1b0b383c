"""Colours of maps: over their images, or alone."""

from difflib import get_close_matches

import matplotlib as mpl
import numpy as np
from PIL import Image

from sfam_bench.core.errors import UserError
from sfam_bench.report.figures.style import METHOD

COLORMAP, ALPHA = "inferno", 0.8
EMPTY = 205  # grey of what has no map
FADED = 0.6  # share of white over what the model does not see


def check_colours(colormap: str, alpha: float | int) -> None:
    """Raise UserError for a colormap that Matplotlib does not have, or an opacity outside (0, 1]."""
    if colormap not in mpl.colormaps:
        near = ", ".join(get_close_matches(str(colormap), list(mpl.colormaps), 3)) or "viridis, inferno, magma"
        raise UserError(f"there is no colormap {colormap!r}: did you mean {near}?")
    if not 0 < alpha <= 1:
        raise UserError(f"alpha is {alpha}: give an opacity above 0, at most 1")


def scaled(raw: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The map at the size of its image, divided by its largest magnitude."""
    rows, cols = image.shape[:2]
    plain = Image.fromarray(np.ascontiguousarray(raw, dtype=np.float32))
    return np.asarray(plain.resize((cols, rows), Image.Resampling.BILINEAR)) / np.nanmax(np.abs(raw))


def overlay(image: np.ndarray, raw: np.ndarray, colormap: str = COLORMAP, alpha: float | int = ALPHA) -> np.ndarray:
    """The image in grey under the map: the colormap for positive values, blue for negative ones, opaque by magnitude.

    Where the map is NaN, which is what the model does not see, the image is faded.
    """
    values = scaled(raw, image)
    seen = np.isfinite(values)
    values = np.where(seen, values, 0)
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"), dtype=float)[..., None] / 255, 3, axis=-1)
    grey = np.where(seen[..., None], grey, FADED + (1 - FADED) * grey)
    opacity = alpha * np.abs(values).clip(0, 1)[..., None]
    return np.asarray(255 * (opacity * _colour(values, colormap) + (1 - opacity) * grey)).astype(np.uint8)


def heatmap(raw: np.ndarray, colormap: str = COLORMAP) -> np.ndarray:
    """The map alone: the colormap from 0 to the largest magnitude, blue on black for negative values, grey for NaN."""
    values = scaled(raw, raw)
    seen = np.isfinite(values)
    values = np.where(seen, values, 0)
    colour = np.where(values[..., None] < 0, np.abs(values)[..., None], 1) * _colour(values, colormap)
    return np.where(seen[..., None], (255 * colour).round(), EMPTY).astype(np.uint8)


def _colour(values: np.ndarray, colormap: str) -> np.ndarray:
    """RGB in [0, 1]: the colormap from 0 to 1, blue below."""
    positive = mpl.colormaps[colormap](values.clip(0, 1))[..., :3]
    return np.where(values[..., None] < 0, mpl.colors.to_rgb(METHOD), positive)
