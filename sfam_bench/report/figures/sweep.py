"""Explainers that differ in one field alone, drawn along it: "sfam gamma 0", "sfam gamma 0.5", ..."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfam_bench.report.figures.means import scored
from sfam_bench.report.figures.style import (
    COLOURS,
    CONTROL,
    LABEL,
    METHOD,
    PAGE,
    PLAIN,
    SCREEN,
    SMALL,
    STYLES,
    bare,
    broken,
    key,
    save,
    short,
)
from sfam_bench.report.names import COMPARED, Named, arrow, group, slug, sort_metrics, words
from sfam_bench.statistics import RUN

NUMBERED = r"^(?P<sweep>.+) (?P<at>-?\d+(?:\.\d+)?)$"
FEWEST = 3  # values that make a sweep


@dataclass(frozen=True)
class Along:
    """A metric along a field: the means at each value in order, and those of what does not sweep."""

    title: str
    part: pd.DataFrame
    levels: pd.DataFrame


def sweeps(summary: pd.DataFrame, out: Path, named: Named = slug) -> list[Path]:
    """A figure for each sweep of one (dataset, model, target), as PNG and SVG in `out`."""
    own = scored(summary)
    own = own[own["metric"].map(group).isin(COMPARED)]
    numbered, paths = along(own), []
    for name in numbered["sweep"].drop_duplicates():
        part = numbered[numbered["sweep"] == name]
        if part["at"].nunique() < FEWEST:
            continue
        titles = [str(part[key].iloc[0]) for key in RUN]
        panels = [panel(own, name, metric) for metric in sort_metrics(part["metric"].drop_duplicates().tolist())]
        columns = min(4, len(panels))
        figure = draw_along(panels, name.rpartition(" ")[2], columns, 0.6 + 2.6 * columns)
        head, _, field = name.rpartition(" ")
        figure.suptitle(f"{head} along {field} · {' · '.join(titles)}", fontsize=10, **PLAIN)
        paths += save(figure, out, named("sweep", name, *titles), SCREEN)
    return paths


def along(own: pd.DataFrame) -> pd.DataFrame:
    """The rows whose explainer ends in a number: what sweeps, and at which value."""
    numbered = own.join(own["explainer"].str.extract(NUMBERED)).dropna(subset="sweep")
    return numbered.assign(at=numbered["at"].astype(float))


def panel(own: pd.DataFrame, name: str, metric: str, of: str = "") -> Along:
    """The panel of a metric of the sweep of this name."""
    whole = own[own["metric"] == metric]
    numbered = along(whole)
    part = numbered[numbered["sweep"] == name].sort_values("at")
    title = broken(words(metric), 28) + arrow(part["higher_is_better"].iloc[0])
    levels = whole[~whole["explainer"].isin(numbered["explainer"])]
    return Along("\n".join(filter(None, [short(of, 34), title])), part, levels)


def draw_along(panels: Sequence[Along], field: str, columns: int, width: float = PAGE) -> Figure:
    """A panel for each metric: means and bands along the field; what does not sweep stands as a level."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width, 0.5 + rows * (0.35 + 0.72 * width / columns)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    names = list(dict.fromkeys(name for each in panels for name in each.levels["explainer"]))
    lines: dict[str, Line2D] = {}
    for each, axes in zip(panels, grid.flat, strict=False):
        lines |= _panel(bare(axes), each, names)
        axes.set_xlabel(field, fontsize=SMALL, **PLAIN)
    key(figure, lines)
    return figure


def _panel(axes: Axes, shown: Along, names: Sequence[str]) -> dict[str, Line2D]:
    """Draw it, and give the handle of each line."""
    part = shown.part
    axes.fill_between(part["at"], part["low"], part["high"], color=METHOD, alpha=0.18, lw=0)
    (line,) = axes.plot(part["at"], part["mean"], "o-", color=METHOD, ms=3, lw=1.2)
    lines: dict[str, Line2D] = {str(part["sweep"].iloc[0]): line}
    for row in shown.levels.to_dict("records"):
        place = names.index(row["explainer"])
        colour = CONTROL if row.get("blind") else COLOURS[1 + place % (len(COLOURS) - 1)]
        lines[row["explainer"]] = axes.axhline(row["mean"], color=colour, lw=1, ls=STYLES[1 + place % 3])
    axes.set_title(shown.title, fontsize=LABEL, **PLAIN)
    return lines
