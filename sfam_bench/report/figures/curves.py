"""Deletion and insertion curves, drawn again from their stored points: means and bands."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sfam_bench.report.figures.style import (
    COLOURS,
    CONTROL,
    LABEL,
    MARKERS,
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
from sfam_bench.report.names import Named, slug, sort_explainers, to_prose
from sfam_bench.runs.reader import Run, read_curves
from sfam_bench.statistics import RUN, clustered_intervals

DRAWS = 2_000  # of a band's bootstrap
PANEL = 6  # explainers in one panel; more would lie on top of one another
EVERY = 5  # points of a curve between two marks


@dataclass(frozen=True)
class CurvePanel:
    """One curve of one run: title, name, a row per pair and explainer, and the classes of the queries."""

    title: str
    name: str
    curves: pd.DataFrame
    labels: pd.Series


def draw_curves(run: Run, out: Path, named: Named = slug) -> list[Path]:
    """Draw the curves of a run into `out`, as PNG and SVG, a few methods per figure with the controls.

    Bands are 95 % intervals, bootstrapped over the classes of the queries.
    """
    curves, blind = read_curves(run.root), run.blind
    if curves.empty:
        return []
    titles = [str(run.manifest.get(name, "")) for name in RUN]
    names = sort_explainers(curves["explainer"].drop_duplicates().tolist(), blind)
    methods = [name for name in names if name not in blind]
    controls = [name for name in names if name in blind and name in ("lafam", "chance", "centre")]
    sheets = [methods[start : start + PANEL] for start in range(0, len(methods), PANEL)] or [[]]
    found = [curve_panel(run, curves, name) for name in sorted(curves["curve"].unique())]
    paths: list[Path] = []
    for number, sheet in enumerate(sheets, 1):
        figure = draw_curve_panels(found, [*sheet, *controls], controls, min(2, len(found)))
        figure.suptitle(" · ".join(titles), fontsize=10, **PLAIN)
        paths += save(figure, out, f"{named('curves', *titles)}-{number}", SCREEN)
    return paths


def curve_panel(run: Run, curves: pd.DataFrame, name: str, of: str = "") -> CurvePanel:
    """The panel of one curve of the run."""
    labels = run.pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    title = "\n".join(filter(None, [shorten(of, 40), break_name(to_prose(name), 40)]))
    return CurvePanel(title, name, curves[curves["curve"] == name], labels)


def draw_curve_panels(
    panels: Sequence[CurvePanel], names: Sequence[str], controls: Container[str], columns: int, width: float = PAGE
) -> Figure:
    """Draw a panel for each curve; an explainer has the same line and marker in all, controls are grey."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width, 0.6 + rows * (0.62 * width / columns)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    lines: dict[str, Line2D] = {}
    for each, axes in zip(panels, grid.flat, strict=False):
        for place, name in enumerate(names):
            own = each.curves[each.curves["explainer"] == name]
            if len(own):
                lines.setdefault(name, _line(axes, own, each.labels, place, name in controls))
        strip_axes(axes).set_title(each.title, fontsize=LABEL, **PLAIN)
        done = "restored" if each.name.startswith("insertion") else "removed"
        axes.set_xlabel(f"share of pixels {done}", fontsize=SMALL)
        axes.set_ylabel("score", fontsize=SMALL)
    add_legend(figure, {name: lines[name] for name in names if name in lines})
    return figure


def _line(axes: Axes, part: pd.DataFrame, labels: pd.Series, place: int, control: bool) -> Line2D:
    """Draw a mean and its band; returns the line's handle."""
    at, scores = np.stack(part["fraction"].tolist())[0], np.stack(part["score"].tolist()).astype(float)
    found = clustered_intervals(scores, labels.loc[part["query_id"]].to_numpy(), draws=DRAWS)
    low, mean, high = (np.array([getattr(point, key) for point in found]) for key in ("low", "mean", "high"))
    colour = CONTROL if control else COLOURS[place % len(COLOURS)]
    (line,) = axes.plot(
        at,
        mean,
        color=colour,
        lw=1.2,
        ls=STYLES[place % len(STYLES)],
        marker=MARKERS[place % len(MARKERS)],
        markevery=(place % EVERY, EVERY),
        ms=3.2,
        markerfacecolor="white" if control else colour,
    )
    axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
    return line
