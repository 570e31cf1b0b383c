"""Render a planted scene at three times the size, and average it down to anti-alias edges."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sfam_bench.datasets.planted import background
from sfam_bench.datasets.planted.scene import (
    BACKGROUND,
    CREST_COLOURS,
    OTHER,
    PARTS,
    TAIL_COLOURS,
    PlantedScene,
    Pose,
    bird,
    poses,
)
from sfam_bench.datasets.planted.shapes import Array, Layer

NAMES = (*PARTS, OTHER)
FINE = 3  # sub-pixels across a pixel
RIM = 0.55  # darkness of outlines


@lru_cache(maxsize=8192)  # 0.3 GB at 96 pixels
def render(scene: PlantedScene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render a scene: the image (size, size, 3), and for each pixel the visible part, 1 + its index in NAMES, or 0."""
    (at, beside), other = poses(scene), scene.other
    draw = scene.stream("clutter")
    behind = [it for _ in range(scene.clutter) for it in background.clutter(draw, CREST_COLOURS + TAIL_COLOURS)]
    placed: list[tuple[Layer, Pose | None]] = [(layer, None) for layer in behind]
    if other is not None and beside is not None:
        placed += [(replace(layer, part=OTHER), beside) for layer in bird(other, beside)]
    placed += [(layer, at) for layer in background.perch(scene.stream("perch")) + bird(scene, at)]
    placed += [(layer, None) for layer in background.leaves(scene.stream("leaves"), scene.leaves)]
    layers = [layer for layer, _ in placed]
    outlines = [it.outline_points if own is None else own.to_frame(it.outline_points) for it, own in placed]
    fine = size * FINE
    surface, rim = _paint(outlines, layers, fine)

    number = surface[surface > 0]
    order = np.argsort(number, kind="stable")  # one run of sub-pixels per layer
    rows, cols = (index[order] for index in np.nonzero(surface))
    where = (np.stack([cols, rows], axis=1) + 0.5) / fine
    ends = np.cumsum(np.bincount(number, minlength=len(outlines) + 1))
    colours = np.zeros((len(number), 4))
    for k, (layer, own) in enumerate(placed):
        run = slice(ends[k], ends[k + 1])
        if run.start < run.stop:
            colours[run, :3] = _light_layer(layer, where[run] if own is None else own.to_own(where[run]))
    colours[:, :3] *= np.where(rim[rows, cols], RIM, 1.0)[:, None]
    colours[:, 3] = 1.0
    drawn = np.zeros((fine, fine, 4), dtype=np.uint8)
    drawn[rows, cols] = 255 * np.clip(colours, 0, 1)

    front = np.asarray(Image.fromarray(drawn).reduce(FINE)) / 255.0
    backdrop, alpha = _backdrop(scene.key, dict(scene.variants).get(BACKGROUND, 0), scene.habitat, size), front[..., 3:]
    image = _light(scene.stream("light"), backdrop * (1 - alpha) + front[..., :3] * alpha)
    codes = np.array([0] + [NAMES.index(layer.part) + 1 if layer.part else 0 for layer in layers], dtype=np.uint8)
    middle = slice(FINE // 2, None, FINE)
    return (image * 255 + 0.5).astype(np.uint8), codes[surface[middle, middle]]


@lru_cache(maxsize=64)  # of the image whose parts are redrawn one after another
def _backdrop(key: tuple[int, ...], look: int, habitat: int | None, size: int) -> Array:
    scene = PlantedScene(key, 0, 0, ((BACKGROUND, look),))
    return background.backdrop(scene.stream(BACKGROUND), size, habitat)


def _paint(outlines: list[Array], layers: list[Layer], fine: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """For each sub-pixel (fine, fine), the visible layer (1 + its index), and whether its rim is there."""
    surface, rim = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    on_surface, on_rim = ImageDraw.Draw(surface), ImageDraw.Draw(rim)
    for number, (points, layer) in enumerate(zip(outlines, layers, strict=True), start=1):
        corners = (points * fine).ravel().tolist()
        on_surface.polygon(corners, fill=number, outline=number)
        on_rim.polygon(corners, fill=0, outline=int(layer.outline), width=max(fine // 144, 1))
    return np.asarray(surface), np.asarray(rim) > 0


def _light_layer(layer: Layer, points: Array) -> Array:
    """Colours (points, 3) of one layer, lit from above."""
    colours = layer.look.colours(points) * layer.shade
    if layer.rounded:
        low, high = layer.outline_points[:, 1].min(), layer.outline_points[:, 1].max()
        depth = (points[:, 1] - (low + high) / 2) / (high - low)
        colours = colours * (1.0 - 0.45 * depth)[:, None]
    return colours


def _light(draw: np.random.Generator, image: Array) -> Array:
    """Change exposure, colour temperature and the direction of the light."""
    rows, cols = image.shape[:2]
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, cols)
    angle, slope = draw.uniform(0, 2 * np.pi), draw.uniform(0, 0.14)
    warmth = draw.uniform(-0.07, 0.07)
    tint = draw.uniform(0.84, 1.14) * np.array([1 + warmth, 1.0, 1 - warmth])
    fall = 1 + slope * (x * np.cos(angle) + y * np.sin(angle))
    return np.clip(image * tint * fall[..., None], 0, 1)
