"""Outlines and colours of planted images: polygons (points, 2) as x, y, and colours in [0, 1]."""

import colorsys
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


# along a feather and back: distance from the root, side, and half widths of pointed and of round feathers
ALONG = np.concatenate([np.linspace(0, 1, 13), np.linspace(1, 0, 13)])
SIDE = np.repeat([1.0, -1.0], 13)
POINTED, ROUNDED = np.abs(np.sin(np.pi * ALONG**0.75)), 1.25 * np.sqrt(ALONG * (1 - ALONG**4))


@dataclass(frozen=True)
class Look:
    """A colouring: `base` with `accent` in a pattern of period (or reach) `period` around `origin`."""

    base: Array
    accent: Array = field(default_factory=lambda: np.zeros(3))
    pattern: str = "plain"
    period: float = 1.0
    origin: Array = field(default_factory=lambda: np.zeros(2))

    def colours(self, points: Array) -> Array:
        """Colours (points, 3) at own coordinates (points, 2)."""
        x, y = (points - self.origin).T
        if self.pattern == "bands":
            accent = np.hypot(x, y) % self.period > 0.6 * self.period
        elif self.pattern == "tip":
            accent = np.hypot(x, y) > self.period
        elif self.pattern == "spots":
            row = np.floor(y / self.period)
            accent = np.hypot((x / self.period + row / 2) % 1 - 0.5, y / self.period - row - 0.5) < 0.3
        elif self.pattern == "belly":
            accent = y > 0.25 * x * x
        else:
            return np.broadcast_to(self.base, (len(points), 3))
        return np.where(accent[:, None], self.accent, self.base)


@dataclass(frozen=True)
class Layer:
    """One filled outline of a part (None: clutter); later layers cover earlier ones.

    `shade` darkens all of it, `rounded` lights it from above, `outline` draws its rim.
    """

    part: str | None
    outline_points: Array
    look: Look
    shade: float = 1.0
    rounded: bool = False
    outline: bool = True


def hsv(hue: float, saturation: float, value: float) -> Array:
    """A colour from hue (in turns), saturation and value, the last two clipped to [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def xy(x: float, y: float) -> Array:
    """A point or an offset, (2,)."""
    return np.array([x, y])


def rotate(points: Array, angle: float) -> Array:
    """Rotate points (points, 2) by an angle in radians, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def smooth(points: Array, rounds: int = 3) -> Array:
    """Round the corners of a closed polygon (Chaikin's corner cutting)."""
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return points


def blob(centre: Array, across: float, down: float, bumps: Array | None = None) -> Array:
    """An ellipse with half axes `across` and `down`; `bumps` (24,) scale its radius."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = np.ones(24) if bumps is None else bumps
    return centre + np.stack([across * radius * np.cos(turn), down * radius * np.sin(turn)], axis=1)


def feather(root: Array, degrees: float, length: float, width: float, tip: float, bend: float = 0.0) -> Array:
    """A feather from `root` towards `degrees` (0 right, 90 down); `tip` from 0 (pointed) to 1 (round)."""
    half = width / 2 * ((1 - tip) * POINTED + tip * ROUNDED)
    outline = np.stack([length * ALONG, bend * ALONG**2 + SIDE * half], axis=1)
    return root + rotate(outline, np.deg2rad(degrees))
