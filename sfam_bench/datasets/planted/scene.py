"""The contents of a planted image: a bird whose crest and tail define its class; everything else is random."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from sfam_bench.datasets.planted.shapes import Array, Layer, Look, blob, feather, hsv, rotate, smooth, xy

PARTS = ("tail", "legs", "body", "wing", "crest", "head", "beak")  # back to front
EVIDENCE = ("crest", "tail")  # at opposite ends of the bird, so that a coarse grid separates them
BACKGROUND, OTHER = "background", "other"
CROWDED = 0.62  # scale of a bird beside another
STATES = 12  # of each evidence part: 3 forms x 4 colours
CHANNELS = {"form": 3, "colour": 4, "texture": 4}  # of a crest whose texture is chosen too, with their states
PLACES = "places"

# Hue, saturation, value of the plumage; crest and tail share no colour, other parts may have any of these colours.
CREST_COLOURS = ((0.985, 0.85, 0.86), (0.125, 0.88, 0.97), (0.885, 0.52, 0.93), (0.10, 0.05, 0.97))
TEXTURES = (("plain", 1.0), ("tip", 0.25), ("bands", 0.15), ("spots", 0.1))  # pattern, and its period or reach
TAIL_COLOURS = ((0.61, 0.85, 0.80), (0.49, 0.75, 0.80), (0.32, 0.70, 0.66), (0.755, 0.60, 0.68))
EARTHY = (
    (0.07, 0.55, 0.55),
    (0.09, 0.40, 0.72),
    (0.58, 0.22, 0.52),
    (0.0, 0.0, 0.35),
    (0.10, 0.25, 0.88),
    (0.03, 0.62, 0.62),
)
HORN = ((0.11, 0.75, 0.90), (0.06, 0.70, 0.80), (0.0, 0.0, 0.22), (0.58, 0.20, 0.45), (0.08, 0.35, 0.75))

HEAD, CROWN, RUMP = xy(0.34, -0.27), xy(0.29, -0.38), xy(-0.30, 0.02)
EXTENT = np.array(
    [[-1.0, -0.93], [0.76, 0.60]]
)  # the largest bird in its own coordinates; the body has a length of about one


@dataclass(frozen=True)
class PlantedScene:
    """The parameters of one image; each factor has its own random stream, so that factors are independent.

    tail: the state of the tail; None for a random one.
    channels: whether form, colour and texture of the crest are independent, and its state is all three.
    alike: whether a tail is drawn as the crest of its state is, so that both can exchange places.
    habitat: the state of the background; None for a random one.
    evidence_size: scale of crest and tail, 1 as drawn.
    leaves: number of leaves in front of the bird.
    clutter: rounds of clutter behind it.
    crowd: whether another bird of random forms in colours of no class stands beside it, both smaller.
    earthy: whether crest and tail have the colours of other parts, which no class has there.
    """

    key: tuple[int, ...]
    crest: int
    tail: int | None
    variants: tuple[tuple[str, int], ...] = ()
    channels: bool = False
    alike: bool = False
    habitat: int | None = None
    evidence_size: float = 1.0
    leaves: int = 0
    clutter: int = 1
    crowd: bool = False
    earthy: bool = False

    @property
    def other(self) -> "PlantedScene | None":
        """The scene of the other bird; another look of it is another bird."""
        if not self.crowd:
            return None
        key = (*self.key, 1 + dict(self.variants).get(OTHER, 0))
        crest, tail = np.random.default_rng([*key, zlib.crc32(b"states")]).integers(STATES, size=2).tolist()
        return PlantedScene(key, crest, tail, evidence_size=self.evidence_size, earthy=True)

    def stream(self, factor: str) -> np.random.Generator:
        """The random generator of one factor: a part, the pose, the light, the background, ..."""
        return np.random.default_rng([*self.key, zlib.crc32(factor.encode()), dict(self.variants).get(factor, 0)])

    def repaint(self, part: str, change: int) -> "PlantedScene":
        """Return the scene with a part or channel that has states in state `change`, or another part in look `change`.

        "places" exchanges the states of crest and tail, whatever `change`.
        """
        if part == PLACES and self.tail is not None:
            return replace(self, crest=self.tail, tail=self.crest)
        if part == BACKGROUND and self.habitat is not None:
            return replace(self, habitat=change)
        if part in CHANNELS and self.channels:
            return replace(self, crest=join_channels({**split_channels(self.crest), part: change}))
        if part == "crest" or (part == "tail" and self.tail is not None):
            return replace(self, **{part: change})  # type: ignore[arg-type]
        return replace(self, variants=(*self.variants, (part, change)))


def split_channels(crest: int) -> dict[str, int]:
    """The states of form, colour and texture of a crest."""
    return dict(zip(CHANNELS, map(int, np.unravel_index(crest, tuple(CHANNELS.values()))), strict=True))


def join_channels(states: dict[str, int]) -> int:
    """The state of a crest with these states of its channels."""
    return int(np.ravel_multi_index([states[name] for name in CHANNELS], tuple(CHANNELS.values())))


@dataclass(frozen=True)
class Pose:
    """The bird's pose: pixels = centre + matrix @ own coordinates; tilts of crest and tail in degrees."""

    matrix: Array
    centre: Array
    crest_tilt: float
    tail_tilt: float

    def to_frame(self, points: Array) -> Array:
        """Convert own coordinates to the unit frame, both (points, 2) as x, y."""
        return points @ self.matrix.T + self.centre

    def to_own(self, points: Array) -> Array:
        """Convert the unit frame to own coordinates, both (points, 2) as x, y."""
        return (points - self.centre) @ np.linalg.inv(self.matrix).T


def pose(scene: PlantedScene) -> Pose:
    """Draw position, scale, rotation and flip such that the largest bird stays inside the frame."""
    draw = scene.stream("pose")
    angle, scale = np.deg2rad(draw.uniform(-14, 14)), draw.uniform(0.44, 0.53)
    matrix = rotate(np.eye(2), angle).T * scale
    if draw.random() < 0.5:
        matrix = np.diag([-1.0, 1.0]) @ matrix
    (left, top), (right, bottom) = EXTENT
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) @ matrix.T
    # the corners of the extent are empty, so they may lie slightly outside
    low, high = -corners.min(axis=0) - 0.02, 1.02 - corners.max(axis=0)
    centre = np.where(low < high, draw.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)
    return Pose(matrix, centre, draw.uniform(-12, 12), draw.uniform(-14, 14))


def poses(scene: PlantedScene) -> tuple[Pose, Pose | None]:
    """The poses of the bird and of the other one, which share the frame from left to right in random order."""
    own = pose(scene)
    if scene.other is None:
        return own, None
    draw = scene.stream("places")
    sides = draw.permutation([0.27, 0.73])
    heights = draw.uniform(0.42, 0.6, 2)
    squeezed = [
        replace(at, matrix=CROWDED * at.matrix, centre=xy(float(side), float(height)))
        for at, side, height in zip((own, pose(scene.other)), sides, heights, strict=True)
    ]
    return squeezed[0], squeezed[1]


def bird(scene: PlantedScene, at: Pose) -> list[Layer]:
    """The layers of the bird, back to front, in its own coordinates."""
    parts = (_tail, _legs, _body, _wing, _crest, _head, _beak)  # in the order of PARTS
    return [_resize(layer, scene.evidence_size) for part in parts for layer in part(scene, at)]


def _resize(layer: Layer, size: float) -> Layer:
    """Scale the layers of crest and tail about their roots."""
    root = {"crest": CROWN, "tail": RUMP}.get(layer.part or "")
    if root is None or size == 1:
        return layer
    look = replace(layer.look, period=size * layer.look.period)
    return replace(layer, outline_points=root + size * (layer.outline_points - root), look=look)


def _any_colour(draw: np.random.Generator) -> Array:
    """A colour of an ordinary part: earthy, or one of the colours of crest and tail."""
    pool = EARTHY if draw.random() < 0.6 else CREST_COLOURS + TAIL_COLOURS
    return _jitter(draw, pool[draw.integers(len(pool))])


def _jitter(draw: np.random.Generator, colour: tuple[float, float, float]) -> Array:
    hue, saturation, value = colour
    return hsv(hue + draw.normal(0, 0.008), saturation * draw.uniform(0.9, 1.08), value * draw.uniform(0.93, 1.04))


def _plumes(part: str, look: Look, feathers: list[Array]) -> list[Layer]:
    """Overlapping feathers, every second one darker so that they can be distinguished."""
    return [Layer(part, shape, look, shade=0.86 if k % 2 else 1.0) for k, shape in enumerate(feathers)]


def _crest(scene: PlantedScene, at: Pose) -> list[Layer]:
    return _crown("crest", scene, scene.crest, CROWN, at.crest_tilt)


def _crown(
    part: str, scene: PlantedScene, state: int, root: Array, tilt: float, turn: float | int = 0.0
) -> list[Layer]:
    """The crest of a state, as `part` at `root`, turned by `turn` degrees from upright."""
    draw, texture = scene.stream(part), None
    if scene.channels:
        form, colour, texture = split_channels(state).values()
    else:
        form, colour = divmod(state, len(CREST_COLOURS))
    base, dark = _jitter(draw, (EARTHY if scene.earthy else CREST_COLOURS)[colour]), np.array([0.13, 0.09, 0.12])
    up = -90 + turn + tilt

    def skull(x: float) -> Array:
        """A root beside the middle one, along the skull."""
        return root + rotate(xy(x, 0.02), np.deg2rad(turn))

    if form == 0:  # a hoopoe's fan with dark tips
        look = Look(base, dark, "tip", 0.35, root)
        shapes = [feather(root, up + a, 0.44, 0.155, tip=0.9) for a in (-62, 50, -36, 24, -6)]
    elif form == 1:  # plain spikes along the skull
        look = Look(base, base * 0.8, "plain", 1.0, root)
        spikes = [(-0.14, -48, 0.37), (-0.07, -26, 0.43), (0.0, -4, 0.46), (0.06, 18, 0.41), (0.11, 40, 0.33)]
        shapes = [feather(skull(x), up + a, length, 0.175, tip=0.0) for x, a, length in spikes]
    else:  # broad banded plumes swept back
        look = Look(base, dark, "bands", 0.125, root)
        shapes = [feather(skull(0.05), up + a, 0.54, 0.19, tip=0.55, bend=-0.16) for a in (-48, -22, 4)]
    look = look if texture is None else Look(base, dark, *TEXTURES[texture], root)
    return _plumes(part, look, shapes)


def _tail(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw, state = scene.stream("tail"), scene.tail
    if scene.alike and state is not None:
        return _crown("tail", scene, state, RUMP, at.tail_tilt, turn=-90)
    state = int(draw.integers(STATES)) if state is None else state
    form, colour = divmod(state, len(TAIL_COLOURS))
    base, light = _jitter(draw, (EARTHY if scene.earthy else TAIL_COLOURS)[colour]), np.array([0.96, 0.94, 0.86])
    root, back = RUMP, 180 + at.tail_tilt
    if form == 0:  # a spread fan with light tips
        shapes = [feather(root, back + a, 0.55, 0.135, tip=0.95) for a in (-34, 34, -20, 20, -7, 7)]
        return _plumes("tail", Look(base, light, "tip", 0.45, root), shapes)
    if form == 1:  # a swallow's fork
        shapes = [feather(root, back + a, 0.66, 0.225, tip=0.0, bend=b) for a, b in ((-20, -0.10), (20, 0.10))]
        return _plumes("tail", Look(base, base * 0.8, "plain", 1.0, root), shapes)
    # a barred paddle
    shapes = [feather(root, back + a, 0.64, 0.22, tip=1.0) for a in (-12, 12, 0)]
    return _plumes("tail", Look(base, light, "bands", 0.15, root), shapes)


def _body(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw = scene.stream("body")
    fat, length = draw.uniform(0.26, 0.31), draw.uniform(0.40, 0.44)
    outline = [
        (-length, 0.0),
        (-0.26, -0.17),
        (0.02, -fat),
        (0.25, -0.34),
        (0.42, -0.26),
        (length, 0.02),
        (0.22, fat),
        (-0.12, fat * 0.9),
    ]
    pattern = ("plain", "belly", "spots", "belly")[draw.integers(4)]
    look = Look(_any_colour(draw), _any_colour(draw), pattern, draw.uniform(0.10, 0.13), xy(0.0, 0.06))
    return [Layer("body", smooth(np.array(outline)), look, rounded=True)]


def _wing(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw = scene.stream("wing")
    root, pattern = xy(0.17, -0.08), ("plain", "bands", "tip", "spots")[draw.integers(4)]
    look = Look(_any_colour(draw), _any_colour(draw), pattern, {"tip": 0.36, "bands": 0.16}.get(pattern, 0.11), root)
    down, reach = draw.uniform(164, 174), draw.uniform(0.44, 0.50)
    tip = draw.uniform(0.1, 0.9)
    shapes = [feather(root, down + a, reach * r, 0.17, tip) for a, r in ((-26, 0.78), (-13, 0.9), (0, 1.0))]
    return _plumes("wing", look, shapes)


def _head(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw = scene.stream("head")
    look = Look(_any_colour(draw), _any_colour(draw), ("plain", "belly")[draw.integers(2)], 1.0, HEAD + xy(0.02, 0.03))
    eye, iris = HEAD + xy(0.06, -0.03), hsv(draw.uniform(0.04, 0.16), draw.uniform(0, 0.9), 0.95)
    pupil = np.array([0.06, 0.05, 0.07])
    return [
        Layer("head", blob(HEAD, draw.uniform(0.17, 0.19), draw.uniform(0.16, 0.18)), look, rounded=True),
        Layer("head", blob(eye, 0.058, 0.058), Look(iris), outline=False),
        Layer("head", blob(eye, 0.038, 0.038), Look(pupil), outline=False),
        Layer("head", blob(eye + xy(0.014, -0.016), 0.013, 0.013), Look(np.ones(3)), outline=False),
    ]


def _beak(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw = scene.stream("beak")
    colour, root = _jitter(draw, HORN[draw.integers(len(HORN))]), HEAD + xy(0.13, 0.02)
    length, deep, hook = draw.uniform(0.16, 0.26), draw.uniform(0.05, 0.08), draw.uniform(0.0, 0.07)
    upper = np.array([(0, -deep), (length * 0.6, -deep * 0.5), (length, hook), (length * 0.5, 0.01), (0, 0.015)])
    lower = np.array([(0, 0.0), (length * 0.75, 0.012 + hook * 0.3), (length * 0.4, deep * 0.6), (0, deep * 0.8)])
    return [Layer("beak", root + lower, Look(colour * 0.75)), Layer("beak", root + upper, Look(colour))]


def _legs(scene: PlantedScene, at: Pose) -> list[Layer]:
    draw = scene.stream("legs")
    colour, long = _jitter(draw, HORN[draw.integers(len(HORN))]), draw.uniform(0.46, 0.54)
    layers = []
    for x, shade in ((0.13, 0.75), (0.0, 1.0)):
        foot = xy(x + 0.05, long)
        strokes = [((x, 0.2), foot)] + [(foot, foot + toe) for toe in ([0.12, 0.02], [0.08, 0.05], [-0.07, 0.03])]
        layers += [
            Layer("legs", _stroke(np.array(a), np.array(b)), Look(colour * shade), outline=False) for a, b in strokes
        ]
    return layers


def _stroke(start: Array, end: Array) -> Array:
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([-along[1], along[0]]) * 0.018
    return np.array([start + side, end + side, end - side, start - side])
