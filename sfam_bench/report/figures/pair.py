"""The picture of one pair: both images, both maps of each method over them, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.figures import overlay
from sfam_bench.report.figures.style import PLAIN, save

KINDS = (".png", ".svg")
DPI = 150
NOTE = "Each map over its own image, divided by its largest magnitude:\nyellow raises the similarity, blue lowers it."


@dataclass(frozen=True)
class MapPanel:
    """A row: a method's maps of query and reference, (rows, cols), zeros where flagged; and lines beside them."""

    name: str
    maps: tuple[np.ndarray, np.ndarray]
    lines: Sequence[str] = ()


class PairFigure(Figure):
    """A figure that notebooks display without pyplot."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def pair_figure(
    query: np.ndarray, reference: np.ndarray, lines: Sequence[str], panels: Sequence[MapPanel]
) -> PairFigure:
    """A figure of query and reference, uint8 (rows, cols, 3), in the first row, then a row for each method."""
    images = (query, reference)
    high, wide, aside, top, gap, foot = 1.9 * query.shape[0] / query.shape[1], 1.9, 2.9, 0.3, 0.08, 0.5
    width, height = gap + 2 * (wide + gap) + aside, top + (1 + len(panels)) * (high + gap) + foot
    figure = PairFigure(figsize=(width, height))
    for row, panel in enumerate([MapPanel("", images, lines), *panels]):
        low = height - top - (row + 1) * (high + gap) + gap
        for column, (image, title) in enumerate(zip(images, ("query", "reference"), strict=True)):
            axes = figure.add_axes(((gap + column * (wide + gap)) / width, low / height, wide / width, high / height))
            axes.set_axis_off()
            seen = panel.maps[column]
            if row == 0:
                axes.set_title(title, fontsize=10, pad=3)
                axes.imshow(image)
            elif seen.any():
                axes.imshow(overlay(image, seen))
            else:
                axes.imshow(np.full_like(image, 205))
                axes.text(0.5, 0.5, "flagged", transform=axes.transAxes, ha="center", va="center", color="#333333")
        left, high_up = (2 * (wide + gap) + 0.14) / width, (low + high - 0.02) / height
        figure.text(left, high_up, panel.name, fontsize=11, weight="bold", va="top", **PLAIN)
        below = high_up - (0.24 / height if panel.name else 0)
        figure.text(left, below, "\n".join(panel.lines), fontsize=9, va="top", linespacing=1.35, **PLAIN)
    figure.text(gap / width, 0.1 / height, NOTE, fontsize=8.5, color="#444444")
    return figure


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


def panel_lines(values: Mapping[str, float], metrics: Catalogue, most: int = 7) -> list[str]:
    """The lines of a panel: the metrics that have a direction, in reading order."""
    names = [name for name in metrics.sort(values) if metrics.direction(name) is not None]
    return [f"{metrics.title(name)} {values[name]:.3f}" for name in names[:most]]
