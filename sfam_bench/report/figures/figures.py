"""The maps of a few pairs over their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfam_bench.report.figures.colours import overlay, scaled
from sfam_bench.report.figures.style import LABEL, MINUS, PAGE, PLAIN, SCREEN, SMALL, break_name, save
from sfam_bench.report.names import Named, slug, sort_explainers, to_prose
from sfam_bench.runs.matrix import PAIR
from sfam_bench.runs.reader import Run, pairs_with_images, read_image, read_maps
from sfam_bench.statistics import RUN

SHEET = 6  # explainers on one sheet of the gallery
ROUNDING = 1e-5  # as in maps.py: range over largest magnitude below which a map is flat
SIDES = ("query", "reference")
LEFT, HEAD, GAP, KEY = 1.0, 0.36, 0.09, 0.5  # inches: captions, names of methods, between pairs, the key of colours

Box = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True)
class Shown:
    """A pair to draw: a caption per side, both images, and both raw maps of each method that has them."""

    captions: Sequence[str]
    images: Sequence[np.ndarray]
    maps: Mapping[str, Sequence[np.ndarray | None]]


def gallery(run: Run, out: Path, pairs: int = 6, named: Named = slug) -> list[Path]:
    """Write sheets of pairs by explainers into `out`; none if the run has no maps or images."""
    chosen = load_shown(run, select_pairs(run, pairs))
    explainers = sort_explainers([*dict.fromkeys(name for pair in chosen for name in pair.maps)], run.blind)
    if not explainers:
        return []
    stem = named("gallery", *(str(run.manifest.get(name, "")) for name in RUN))
    sheets = [explainers[start : start + SHEET] for start in range(0, len(explainers), SHEET)]
    return [
        path
        for number, sheet in enumerate(sheets, 1)
        for path in save(draw_pairs(chosen, sheet), out, f"{stem}-{number}", SCREEN, ("png",))
    ]


def select_pairs(run: Run, count: int, kinds: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The first pairs with stored images, kinds in turn; of all kinds if none is given."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for row in pairs_with_images(run).drop_duplicates(PAIR).to_dict("records"):
        if not kinds or row["kind"] in kinds:
            kept.setdefault(row["kind"], []).append({str(name): value for name, value in row.items()})
    in_turn = (row for rank in zip_longest(*kept.values()) for row in rank if row is not None)
    return sorted(
        [row for row, _ in zip(in_turn, range(count), strict=False)], key=lambda row: [*kept].index(row["kind"])
    )


def load_shown(run: Run, chosen: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> list[Shown]:
    """Load the images and maps of pairs from the run folder, with a note on each."""
    maps = read_maps(run.root, {(row["query_id"], row["reference_id"]) for row in chosen})
    ids = zip(*(maps.get(f"{side}_id", np.array([])).tolist() for side in SIDES), strict=True)
    place = {pair: row for row, pair in enumerate(ids)}
    names = dict.fromkeys(name.rpartition("/")[0] for name in maps if "/" in name)
    found = []
    for pair, note in zip(chosen, notes or [""] * len(chosen), strict=True):
        pixels = [np.asarray(read_image(run.root, run.manifest, pair[f"{side}_id"])) for side in SIDES]
        where = place.get((pair["query_id"], pair["reference_id"]))
        own = {
            name: [
                maps[key][where] if where is not None and (key := f"{name}/{side}") in maps else None for side in SIDES
            ]
            for name in names
        }
        found.append(Shown(_captions(pair, note), pixels, own))
    return found


def _captions(pair: Mapping[str, Any], note: str) -> tuple[str, str]:
    """Kind, score and class beside the query, the class beside the reference."""
    query, reference = (f"{side}:\n{break_name(str(pair[f'{side}_class']), 16, 3)}" for side in SIDES)
    facts = [break_name(note, 16, 3)] if note else []
    return "\n".join(
        [*facts, break_name(to_prose(str(pair["kind"])), 16), f"score {pair['score']:.3f}", query]
    ), reference


def draw_pairs(pairs: Sequence[Shown], names: Sequence[str]) -> Figure:
    """Query above reference, a column for their images and one for each method's maps over them.

    All are drawn in one axes in inches: an axes for each image takes most of the time.
    """
    size = min(1.1, (PAGE - LEFT - 0.05) / (1 + len(names)) - 0.03)
    height = HEAD + KEY + len(pairs) * (2 * (size + 0.03) + GAP)
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(0, height))
    axes.set_axis_off()
    lefts = [LEFT + column * (size + 0.03) for column in range(1 + len(names))]
    for left, name in zip(lefts, ["images", *names], strict=True):
        at: dict[str, Any] = {"fontsize": LABEL if size > 0.85 else SMALL, "ha": "center", "va": "baseline"}
        axes.text(left + size / 2, height - HEAD + 3 / 72, break_name(name, 15), **at, **PLAIN)
    for row, pair in enumerate(pairs):
        for side, image in enumerate(pair.images):
            top = height - HEAD - row * (2 * (size + 0.03) + GAP) - side * (size + 0.03)
            boxes = [_fit(image, left, top - size, size) for left in lefts]
            axes.imshow(image, extent=boxes[0], aspect="auto")
            at = {"va": "center", "ha": "right", "fontsize": SMALL}
            axes.text(LEFT - 0.05 * size, top - size / 2, pair.captions[side], **at, **PLAIN)
            for name, box in zip(names, boxes[1:], strict=True):
                draw_map(axes, image, pair.maps.get(name, (None, None))[side], box)
    _draw_colour_key(figure, height)
    return figure


def _fit(image: np.ndarray, left: float, bottom: float, size: float) -> Box:
    """The place of an image in the middle of a square."""
    rows, cols = image.shape[:2]
    x, y = (size * (1 - sides / max(rows, cols)) / 2 for sides in (cols, rows))
    return left + x, left + size - x, bottom + y, bottom + size - y


def _draw_colour_key(figure: Figure, height: float) -> None:
    """Draw the colour key: from lowering to raising the similarity, over mid-grey."""
    width = figure.get_figwidth()
    axes = figure.add_axes((LEFT / width, (KEY - 0.2) / height, 1.6 / width, 0.11 / height))
    ramp = np.linspace(-1, 1, 201, dtype=np.float32)[None]
    axes.imshow(overlay(np.full((1, 201, 3), 128, np.uint8), ramp), aspect="auto", extent=(-1, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([-1, 0, 1], [f"{MINUS}1: against", "0", "1: for"], fontsize=SMALL)
    axes.tick_params(length=2, pad=2)
    note = "share of a map's largest magnitude; lines: half of it (dashed: lowers the similarity)"
    figure.text((LEFT + 1.95) / width, (KEY - 0.145) / height, note, fontsize=SMALL, va="center")


def draw_map(axes: Axes, image: np.ndarray, raw: np.ndarray | None, box: Box | None = None) -> None:
    """Draw the map over its image, or a grey field with the reason if the map is empty; in `box`, or the whole axes."""
    rows, cols = image.shape[:2]
    left, right, bottom, top = box or (-0.5, cols - 0.5, rows - 0.5, -0.5)
    place: dict[str, Any] = {"extent": (left, right, bottom, top), "origin": "upper"}
    shape: dict[str, Any] = place | {"aspect": "auto" if box else "equal"}
    word = "no map" if raw is None else "flagged" if _is_flat(raw) else ""
    if raw is None or word:
        axes.imshow(np.full_like(image, 205), **shape)
        at: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LABEL, "color": "#333333"}
        axes.text((left + right) / 2, (bottom + top) / 2, word, **at)
        return
    axes.imshow(overlay(image, raw), **shape)
    values = scaled(raw, image)
    for level, style in ((0.5, "solid"), (-0.5, "dashed")):  # so that grey print distinguishes the signs
        if values.min() < level < values.max():
            axes.contour(values, [level], colors="white", linewidths=0.7, linestyles=style, **place)


def _is_flat(raw: np.ndarray) -> bool:
    return not np.isfinite(raw).all() or not np.ptp(raw) > ROUNDING * np.abs(raw).max()
