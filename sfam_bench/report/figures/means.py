"""Every explainer's mean with its interval, a panel for each metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.style import (
    CONTROL,
    LABEL,
    METHOD,
    PAGE,
    PLAIN,
    REFERENCE,
    SCREEN,
    SMALL,
    break_name,
    save,
    shorten,
    strip_axes,
)
from sfam_bench.report.names import Named, direction_arrow, slug, sort_explainers
from sfam_bench.statistics import FACTS, RUN


def draw_overview(summary: pd.DataFrame, metrics: Catalogue, out: Path, named: Named = slug) -> list[Path]:
    """Draw means and 95 % intervals, a panel per metric of one (dataset, model, target), as PNG and SVG in `out`."""
    own = select_scored(summary)
    names = [*filter(metrics.is_compared, metrics.sort(own["metric"].unique()))]
    if not names:
        return []
    titles = [str(summary[name].iloc[0]) for name in RUN]
    panels = [panel(summary, name, metrics) for name in names]
    columns = min(4, len(names))
    figure = draw_means(panels, columns, 1.2 + 2.3 * columns)
    figure.suptitle(" · ".join(titles), fontsize=10, **PLAIN)
    return save(figure, out, named("overview", *titles), SCREEN)


def select_scored(summary: pd.DataFrame) -> pd.DataFrame:
    """The means that have a direction and at least one pair without a flag."""
    return summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna() & (summary["count"] > 0)]


@dataclass(frozen=True)
class Panel:
    """A metric's means, its chance level if known, and a title."""

    title: str
    means: pd.DataFrame
    chance: float


def panel(summary: pd.DataFrame, metric: str, metrics: Catalogue, of: str = "") -> Panel:
    """The panel of a metric from the summary of its run."""
    means = select_scored(summary[summary["metric"] == metric])
    chance = float(summary.loc[summary["metric"] == metrics.chance(metric), "mean"].mean())
    title = break_name(metrics.label(metric), 28, 3) + direction_arrow(metrics.direction(metric))
    return Panel("\n".join(filter(None, [shorten(of, 34), title])), means, chance)


def draw_means(panels: Sequence[Panel], columns: int, width: float = PAGE) -> Figure:
    """Draw means and 95 % intervals: a panel for each metric, a row for each explainer."""
    whole = pd.concat([each.means for each in panels])
    unseeing = set(whole.loc[whole["blind"].astype(bool), "explainer"])
    explainers = sort_explainers(whole["explainer"].drop_duplicates().tolist(), unseeing)
    rows = -(-len(panels) // columns)
    tall = max(each.title.count("\n") for each in panels)
    height = 0.45 + rows * (0.55 + 0.14 * tall + 0.15 * len(explainers))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for each, axes in zip(panels, grid.flat, strict=False):
        _panel(strip_axes(axes), each, explainers)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, fontsize=SMALL, frameon=False)
    return figure


def _panel(axes: Axes, shown: Panel, explainers: Sequence[str]) -> None:
    for row in shown.means.to_dict("records"):
        unseeing = row["blind"]
        colour, place = (CONTROL if unseeing else METHOD), explainers.index(row["explainer"])
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4, solid_capstyle="round")
        face = "white" if unseeing else colour
        mark = "s" if unseeing else "o"
        axes.plot(row["mean"], place, mark, color=colour, markerfacecolor=face, ms=4 + 2 * row["best"])
        if row["explainer"] == "lafam":
            axes.axvline(row["mean"], color=REFERENCE, lw=0.9, ls=":", zorder=0)
    if np.isfinite(shown.chance):
        axes.axvline(shown.chance, color="black", lw=0.9, ls="--", zorder=0)
    axes.set_title(shown.title, fontsize=LABEL, **PLAIN)
    axes.set_yticks(range(len(explainers)), [shorten(name, 30) for name in explainers], fontsize=SMALL, **PLAIN)
    axes.set_ylim(len(explainers) - 0.4, -0.6)
    axes.grid(axis="y", color="#eeeeee", lw=0.7)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=4)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=METHOD, marker="o", ms=4, lw=1.4, label="method, 95 % interval"),
        Line2D([], [], color=METHOD, marker="o", ms=6, lw=0, label="larger: best"),
        Line2D([], [], color=CONTROL, marker="s", ms=4, markerfacecolor="white", lw=1.4, label="ignores the reference"),
        Line2D([], [], color=REFERENCE, lw=0.9, ls=":", label="lafam"),
        Line2D([], [], color="black", lw=0.9, ls="--", label="chance level"),
    ]
