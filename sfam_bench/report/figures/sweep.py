"""Explainers that differ in one number alone, drawn along it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.means import select_scored
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
    add_legend,
    break_name,
    save,
    shorten,
    strip_axes,
)
from sfam_bench.report.names import Named, direction_arrow, slug
from sfam_bench.statistics import RUN

FEWEST = 3  # values that make a sweep


@dataclass(frozen=True)
class FieldSweep:
    """Explainers that differ in one numeric field: the field, and its value for each."""

    kind: str
    field: str
    points: Mapping[str, float]


@dataclass(frozen=True)
class Along:
    """A metric along a field: the means at each value in order, and those of other explainers."""

    title: str
    kind: str
    part: pd.DataFrame
    levels: pd.DataFrame


def draw_sweeps(summary: pd.DataFrame, manifest: Mapping[str, Any], out: Path, named: Named = slug) -> list[Path]:
    """Draw each sweep of one (dataset, model, target), as PNG and SVG in `out`."""
    catalogue, own, paths = Catalogue.of(manifest), select_scored(summary), list[Path]()
    own = own[own["metric"].map(catalogue.is_compared).astype(bool)]
    for sweep in find_sweeps(manifest):
        part = own[own["explainer"].isin(sweep.points)]
        if part["explainer"].nunique() < FEWEST:
            continue
        titles = [str(part[key].iloc[0]) for key in RUN]
        panels = [panel(own, sweep, metric, catalogue) for metric in catalogue.sort(part["metric"].unique())]
        columns = min(4, len(panels))
        figure = draw_along(panels, sweep.field, columns, 0.6 + 2.6 * columns)
        figure.suptitle(f"{sweep.kind} along {sweep.field} · {' · '.join(titles)}", fontsize=10, **PLAIN)
        paths += save(figure, out, named("sweep", sweep.kind, sweep.field, *titles), SCREEN)
    return paths


def find_sweeps(manifest: Mapping[str, Any]) -> list[FieldSweep]:
    """The sweeps among the explainers of a run, by settings; of equal values the first explainer counts."""
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for name, settings in (manifest.get("explainer_settings") or {}).items():
        kind = str(settings.get("_target_", "")).rpartition(".")[2]
        for field, value in settings.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                others = repr(sorted((other, repr(its)) for other, its in settings.items() if other != field))
                found.setdefault((kind, field, others), {}).setdefault(float(value), name)
    return [
        FieldSweep(kind, field, {name: value for value, name in sorted(names.items())})
        for (kind, field, _), names in found.items()
        if len(names) >= FEWEST
    ]


def panel(own: pd.DataFrame, sweep: FieldSweep, metric: str, catalogue: Catalogue, of: str = "") -> Along:
    """The panel of a metric of a sweep."""
    whole = own[own["metric"] == metric]
    swept = whole["explainer"].isin(sweep.points)
    part = whole[swept].assign(at=whole["explainer"].map(sweep.points)).sort_values("at")
    label = break_name(catalogue.label(metric), 34) + direction_arrow(catalogue.direction(metric))
    title = "\n".join(filter(None, [shorten(of, 34), label]))
    return Along(title, sweep.kind, part, whole[~swept])


def draw_along(panels: Sequence[Along], field: str, columns: int, width: float = PAGE) -> Figure:
    """Draw a panel for each metric: means and bands along the field; other explainers are level lines."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width, 0.5 + rows * (0.35 + 0.72 * width / columns)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    names = list(dict.fromkeys(name for each in panels for name in each.levels["explainer"]))
    lines: dict[str, Line2D] = {}
    for each, axes in zip(panels, grid.flat, strict=False):
        lines |= _panel(strip_axes(axes), each, names)
        axes.set_xlabel(field, fontsize=SMALL, **PLAIN)
    add_legend(figure, lines)
    return figure


def _panel(axes: Axes, shown: Along, names: Sequence[str]) -> dict[str, Line2D]:
    """Draw one panel; returns the handle of each line."""
    part = shown.part
    axes.fill_between(part["at"], part["low"], part["high"], color=METHOD, alpha=0.18, lw=0)
    (line,) = axes.plot(part["at"], part["mean"], "o-", color=METHOD, ms=3, lw=1.2)
    lines: dict[str, Line2D] = {shown.kind: line}
    for row in shown.levels.to_dict("records"):
        place = names.index(row["explainer"])
        colour = CONTROL if row.get("blind") else COLOURS[1 + place % (len(COLOURS) - 1)]
        lines[row["explainer"]] = axes.axhline(row["mean"], color=colour, lw=1, ls=STYLES[1 + place % 3])
    axes.set_title(shown.title, fontsize=LABEL, **PLAIN)
    return lines
