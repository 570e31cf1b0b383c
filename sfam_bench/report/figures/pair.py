"""The picture of a pair: its images, the maps of each method over them, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.colours import ALPHA, COLORMAP, EMPTY, overlay
from sfam_bench.report.figures.style import PLAIN, save

KINDS = (".png", ".svg")
DPI = 150
SCALE = "Each map over its own image, divided by its largest magnitude:"


@dataclass(frozen=True)
class MapPanel:
    """A row: a method's map of each image, (rows, cols), zeros where flagged; and lines beside them."""

    name: str
    maps: Sequence[np.ndarray]
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Sheet:
    """A pair, or a query and several references: images by title, uint8 (rows, cols, 3), and a panel for each method.

    lines: beside the images.
    value: what the maps explain, such as "similarity".
    title: above all lines; empty without.
    """

    images: Mapping[str, np.ndarray]
    lines: Sequence[str]
    panels: Sequence[MapPanel]
    value: str = "similarity"
    title: str = ""
    colormap: str = COLORMAP
    alpha: float | int = ALPHA

    @property
    def note(self) -> str:
        """How to read the colours."""
        high = "yellow" if self.colormap == COLORMAP else f"{self.colormap}'s last colour"
        negative = "\nOn the negative, this is its similarity to the query." if "negative" in self.images else ""
        return f"{SCALE}\n{high} raises the {self.value}, blue lowers it.{negative}"


class PairFigure(Figure):
    """A figure that notebooks display without pyplot."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def pair_figure(sheets: Sequence[Sheet]) -> PairFigure:
    """A figure of each sheet below the other: the images in its first row, then a row for each method."""
    wide, top, gap, foot = 1.9, 0.3, 0.08, 0.65
    rows = [row for sheet in sheets for row in (MapPanel(sheet.title, (), sheet.lines), *sheet.panels)]
    widths = [measure_text(row.name, 11.0, "bold") for row in rows]
    widths += [measure_text(line, 9.0) for row in rows for line in row.lines]
    aside = max(2.9, *(0.3 + width for width in widths))
    highs = [wide * max(image.shape[0] / image.shape[1] for image in sheet.images.values()) for sheet in sheets]
    heights = [top + (1 + len(sheet.panels)) * (high + gap) for sheet, high in zip(sheets, highs, strict=True)]
    columns = max(len(sheet.images) for sheet in sheets)
    width, height = gap + columns * (wide + gap) + aside, sum(heights) + foot
    figure = PairFigure(figsize=(width, height))
    edges = [height - sum(heights[:number]) for number in range(len(sheets) + 1)]
    for sheet, high, (upper, _) in zip(sheets, highs, pairwise(edges), strict=True):
        images = [*sheet.images.values()]
        for row, panel in enumerate([MapPanel(sheet.title, images, sheet.lines), *sheet.panels]):
            low = upper - top - (row + 1) * (high + gap) + gap
            for column, (title, image) in enumerate(sheet.images.items()):
                place = ((gap + column * (wide + gap)) / width, low / height, wide / width, high / height)
                axes = figure.add_axes(place)
                axes.set_axis_off()
                seen = panel.maps[column]
                if row == 0:
                    axes.set_title(title, fontsize=10, pad=3, **PLAIN)
                    axes.imshow(image)
                elif seen.any():
                    axes.imshow(overlay(image, seen, sheet.colormap, sheet.alpha))
                else:
                    axes.imshow(np.full_like(image, EMPTY))
                    axes.text(0.5, 0.5, "flagged", transform=axes.transAxes, ha="center", va="center", color="#333333")
            left, high_up = (len(images) * (wide + gap) + 0.14) / width, (low + high - 0.02) / height
            figure.text(left, high_up, panel.name, fontsize=11, weight="bold", va="top", **PLAIN)
            below = high_up - (0.24 / height if panel.name else 0)
            figure.text(left, below, "\n".join(panel.lines), fontsize=9, va="top", linespacing=1.35, **PLAIN)
    figure.text(gap / width, 0.1 / height, sheets[0].note, fontsize=8.5, color="#444444")
    return figure


def measure_text(text: str, size: float, weight: str = "normal") -> float:
    """The width of a line of text, in inches."""
    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", r"\$"), size, prop=FontProperties(weight=weight))
    return 1.05 * float(path.get_extents().width) / 72  # letters are drawn at whole pixels


def check_suffix(path: Path) -> None:
    """Raise UserError, before anything is drawn, if the suffix is not a figure format."""
    if path.suffix not in KINDS:
        raise UserError(f"cannot draw {path}: name a file that ends in {' or '.join(KINDS)}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix, whole or not at all; raises UserError if it cannot be written."""
    check_suffix(path)
    try:
        save(figure, path.parent, path.stem, dpi=DPI, kinds=[path.suffix[1:]])
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): choose a place that you may write to"
        ) from None


def panel_lines(values: Mapping[str, float], metrics: Catalogue) -> list[str]:
    """The lines of a panel: the first seven metrics that have a direction, in reading order."""
    names = [name for name in metrics.sort(values) if metrics.direction(name) is not None]
    return [f"{metrics.title(name)} {values[name]:.3f}" for name in names[:7]]
