"""Backgrounds of planted images: blurred landscapes, clutter, and something for the bird to stand on."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sfam_bench.datasets.planted.shapes import Array, Layer, Look, blob, feather, hsv, smooth

# top, middle, bottom (hue, saturation, value) of a blurred landscape
LANDSCAPES = (
    ((0.56, 0.30, 0.88), (0.30, 0.25, 0.75), (0.27, 0.45, 0.48)),  # meadow
    ((0.29, 0.38, 0.50), (0.27, 0.45, 0.38), (0.25, 0.50, 0.26)),  # foliage
    ((0.60, 0.22, 0.70), (0.07, 0.30, 0.85), (0.05, 0.35, 0.45)),  # dusk
    ((0.58, 0.14, 0.90), (0.58, 0.08, 0.86), (0.60, 0.14, 0.72)),  # snow
    ((0.12, 0.28, 0.82), (0.10, 0.38, 0.66), (0.08, 0.45, 0.42)),  # autumn
    ((0.54, 0.22, 0.80), (0.52, 0.30, 0.62), (0.55, 0.40, 0.42)),  # lake
    ((0.13, 0.20, 0.90), (0.11, 0.30, 0.80), (0.09, 0.36, 0.62)),  # desert
    ((0.35, 0.22, 0.46), (0.40, 0.28, 0.34), (0.30, 0.35, 0.22)),  # forest
)


def noise(draw: np.random.Generator, size: int, cells: tuple[int, ...], fade: float = 0.55) -> Array:
    """Multi-octave noise (size, size) of about unit range: `cells` per side in each octave, each scaled by `fade`."""
    total, weight = np.zeros((size, size)), 1.0
    for count in cells:
        octave = Image.fromarray(draw.uniform(-1, 1, (count, count)).astype(np.float32))
        total += weight * np.asarray(octave.resize((size, size), Image.Resampling.BICUBIC))
        weight *= fade
    return total


def backdrop(draw: np.random.Generator, size: int, habitat: int | None = None) -> Array:
    """A blurred landscape (size, size, 3) in [0, 1]; `habitat` chooses landscape and plants, which are random else."""
    place = int(draw.integers(len(LANDSCAPES)))
    if habitat is not None:
        place = habitat % len(LANDSCAPES)
    top, middle, bottom = (hsv(h + draw.normal(0, 0.015), s, v) for h, s, v in LANDSCAPES[place])
    height = np.linspace(0, 1, size)[:, None] + 0.28 * noise(draw, size, (3, 6, 12)) - draw.uniform(-0.15, 0.15)
    horizon, soft = draw.uniform(0.45, 0.75), draw.uniform(0.10, 0.35)
    up, down = np.clip(height / horizon, 0, 1), np.clip((height - horizon) / soft, 0, 1)
    scene = top + (middle - top) * up[..., None]
    scene += (bottom - scene) * down[..., None]
    scene *= 1 + 0.09 * noise(draw, size, (8, 20, size // 2), fade=0.65)[..., None]
    return _foliage(draw, np.clip(scene, 0, 1), bottom, None if habitat is None else 1 + habitat // len(LANDSCAPES))


def _foliage(draw: np.random.Generator, scene: Array, tint: Array, chosen: int | None) -> Array:
    """Out-of-focus leaves (1), grass (2) or discs of light (3) over the landscape, or nothing (0)."""
    size = len(scene)
    canvas = Image.fromarray((scene * 255).astype(np.uint8))
    pen, kind = ImageDraw.Draw(canvas), int(draw.integers(4))
    kind = kind if chosen is None else chosen
    for _ in range(int(draw.integers(14, 34)) if kind else 0):
        colour = tuple(int(c) for c in np.clip(255 * tint * draw.uniform(0.6, 1.9) + draw.normal(0, 8, 3), 0, 255))
        where = draw.uniform(-0.05, 1.05, 2)
        if kind == 1:
            shape = feather(where, draw.uniform(0, 360), draw.uniform(0.08, 0.22), draw.uniform(0.04, 0.09), tip=0.2)
        elif kind == 2:
            root = np.array([where[0], draw.uniform(0.85, 1.05)])
            angle, length, bend = draw.uniform(-110, -70), draw.uniform(0.15, 0.5), draw.uniform(-0.1, 0.1)
            shape = feather(root, angle, length, 0.03, tip=0.0, bend=bend)
        else:
            radius, colour = draw.uniform(0.02, 0.08), tuple(min(c + 60, 255) for c in colour)
            shape = blob(where, radius, radius)
        pen.polygon((shape * size).ravel().tolist(), fill=colour)
    blurred = canvas.filter(ImageFilter.GaussianBlur(size * draw.uniform(0.006, 0.02)))
    amount = draw.uniform(0.4, 0.9)
    return (1 - amount) * scene + amount * np.asarray(blurred) / 255


def clutter(draw: np.random.Generator, bright: tuple[tuple[float, float, float], ...]) -> list[Layer]:
    """Two to five berries, leaves, flowers, pebbles or mushrooms in the unit frame, in colours of `bright`."""
    layers: list[Layer] = []
    for _ in range(draw.integers(2, 6)):
        where, reach = draw.uniform(0.03, 0.97, 2), draw.uniform(0.045, 0.085)
        vivid = hsv(*bright[draw.integers(len(bright))]) * draw.uniform(0.7, 1.0)
        layers += CLUTTER[draw.integers(len(CLUTTER))](draw, where, reach, vivid)
    return layers


def _berries(draw: np.random.Generator, where: Array, reach: float, vivid: Array) -> list[Layer]:
    spots = where + draw.normal(0, 0.55 * reach, (draw.integers(3, 6), 2))
    return [Layer(None, blob(spot, reach * 0.42, reach * 0.42), Look(vivid), rounded=True) for spot in spots]


def _leaf(draw: np.random.Generator, where: Array, reach: float, vivid: Array) -> list[Layer]:
    green, angle = hsv(draw.uniform(0.2, 0.4), 0.5, draw.uniform(0.3, 0.7)), draw.uniform(0, 360)
    return [
        Layer(None, feather(where, angle + a, 2 * reach, reach, tip=0.1), Look(green), shade=s)
        for a, s in ((0, 1.0), (70, 0.85))
    ]


def _flower(draw: np.random.Generator, where: Array, reach: float, vivid: Array) -> list[Layer]:
    turn, petals = draw.uniform(0, 72), range(0, 360, 72)
    shapes = [Layer(None, feather(where, turn + a, reach, 0.7 * reach, tip=0.9), Look(vivid)) for a in petals]
    return [*shapes, Layer(None, blob(where, reach / 3, reach / 3), Look(hsv(0.13, 0.8, 0.9)))]


def _pebble(draw: np.random.Generator, where: Array, reach: float, vivid: Array) -> list[Layer]:
    grey = hsv(draw.uniform(0, 1), 0.1, draw.uniform(0.4, 0.8))
    return [Layer(None, blob(where, reach, 0.7 * reach, draw.uniform(0.88, 1.1, 24)), Look(grey), rounded=True)]


def _mushroom(draw: np.random.Generator, where: Array, reach: float, vivid: Array) -> list[Layer]:
    stem = smooth(where + reach * np.array([(-0.3, 0), (0.3, 0), (0.4, 1.2), (-0.4, 1.2)]), 1)
    cap = smooth(where + reach * np.array([(-1, 0.2), (-0.8, -0.7), (0.8, -0.7), (1, 0.2)]), 2)
    look = Look(vivid, np.array([0.95, 0.93, 0.88]), "spots", reach * 0.7, where)
    return [Layer(None, stem, Look(hsv(0.11, 0.15, 0.9))), Layer(None, cap, look)]


CLUTTER = (_berries, _leaf, _flower, _pebble, _mushroom)


def leaves(draw: np.random.Generator, count: int) -> list[Layer]:
    """Leaves in front of the bird, in the unit frame."""
    return [
        layer
        for _ in range(count)
        for layer in _leaf(draw, draw.uniform(0.15, 0.85, 2), draw.uniform(0.07, 0.13), np.zeros(3))
    ]


def perch(draw: np.random.Generator) -> list[Layer]:
    """A branch or a mound under the feet, in the bird's coordinates."""
    if draw.random() < 0.6:
        x = np.linspace(-1.6, 1.6, 9)
        sag, thick = draw.normal(0, 0.03, 9), draw.uniform(0.04, 0.075) * draw.uniform(0.8, 1.2, 9)
        outline = np.concatenate([np.stack([x, 0.55 + sag - thick / 2], 1), np.stack([x, 0.55 + sag + thick], 1)[::-1]])
        bark = hsv(0.07, draw.uniform(0.25, 0.5), draw.uniform(0.25, 0.5))
        return [Layer(None, smooth(outline, 2), Look(bark), rounded=True)]
    mound = np.array([(-1.6, 2.4), (-0.9, 0.85), (-0.45, 0.57), (-0.1, 0.5), (0.4, 0.52), (0.75, 0.68), (1.5, 2.4)])
    mound[:, 1] += draw.normal(0, 0.02, 7)
    earth = hsv(draw.uniform(0.06, 0.3), 0.3, draw.uniform(0.3, 0.6))
    return [Layer(None, smooth(mound, 3), Look(earth), rounded=True)]
