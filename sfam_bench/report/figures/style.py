"""The style of figures: sizes in print, marks distinguishable in grey, and the function to save them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfam_bench.core.files import atomic

COLUMN, PAGE = 3.4, 7.0  # inches: one column of a printed page, and two
TITLE, LABEL, SMALL = 8.5, 7.5, 6.5  # points at the printed width; nothing is smaller
PRINT, SCREEN, IN_SVG = 200, 130, 144  # dots an inch; of pixels in SVG at most: twice the size at which they are drawn
METHOD, CONTROL, REFERENCE = "#0072B2", "#6f6f6f", "#D55E00"  # Okabe and Ito's blue and vermilion, and grey
COLOURS = (METHOD, REFERENCE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
PLAIN: dict[str, Any] = {"parse_math": False}  # names may hold dollar signs
MINUS = "\N{MINUS SIGN}"


def save(figure: Figure, out: Path, name: str, dpi: int = PRINT, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write NAME.png and NAME.svg into `out`; equal numbers give equal files."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{kind}" for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        facts: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
        with atomic(path) as temporary, mpl.rc_context({"svg.hashsalt": "sfam_bench"}):
            figure.savefig(temporary, format=kind, dpi=min(dpi, IN_SVG) if kind == "svg" else dpi, **facts)
        figure.set_layout_engine("none")  # each format would lay it out again, for which all is drawn once more
    return paths


def strip_axes(axes: Axes) -> Axes:
    """Hide the upper and right spines and set small tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    return axes


def add_legend(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    """Draw the legend below the figure."""
    names = [shorten(name, 30) for name in lines]
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "handlelength": 3.2}
    legend = figure.legend([*lines.values()], names, fontsize=SMALL, frameon=False, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)


def shorten(name: str, most: int) -> str:
    """A name shortened to `length` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def break_name(name: str, width: int, lines: int = 2) -> str:
    """A name wrapped after spaces and underscores into at most `lines` lines, shortened if still too long."""
    found = [""]
    for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", name):
        if found[-1] and len(found[-1] + part.rstrip()) > width and len(found) < lines:
            found.append("")
        found[-1] += part
    return "\n".join(shorten(line.strip(), width) for line in found)
