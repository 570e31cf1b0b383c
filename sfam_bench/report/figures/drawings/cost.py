"""The cost of a map against its faithfulness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, BboxBase

from sfam_bench.report.figures.drawings.chosen import no_data, select_means
from sfam_bench.report.figures.style import CONTROL, LABEL, METHOD, PAGE, PLAIN, SMALL, break_name, shorten, strip_axes
from sfam_bench.report.names import direction_arrow
from sfam_bench.report.stored import Stored, Summed
from sfam_bench.report.tables.cost import LABELS

REACH = (5, 9, 14, 20, 27, 35, 44, 54, 66, 80)  # points between a mark and its label, the nearest free first
AROUND = np.deg2rad([0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 200, 340])
CROWD = 60  # points within which marks crowd one another
NEAR = 10  # points: a label that is farther away, or about as near to another mark, has a line to its own


@dataclass(frozen=True)
class CostFaithfulness:
    """Cost of a map (log axis) against a metric with its 95 % interval: a panel for each run.

    runs: names of stored runs, by what they are called in the figure.
    metric: of faithfulness.
    cost: milliseconds, forwards, backwards or megabytes.
    methods: which are shown; all where none is named.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    metric: str
    cost: str = "milliseconds"
    methods: Sequence[str] = ()

    def __call__(self, stored: Stored) -> Figure:
        runs = {title: stored.run(name) for title, name in self.runs.items()}
        found = [(title, self._of(run), run.catalogue.label(self.metric)) for title, run in runs.items()]
        figure = Figure(figsize=(PAGE, 0.2 + 3.0 * len(found)), layout="constrained")
        grid = figure.subplots(len(found), 1, squeeze=False)
        for (title, means, label), axes in zip(found, grid.flat, strict=True):
            self._panel(strip_axes(axes), means, label)
            axes.set_title(shorten(title, 70), fontsize=LABEL, **PLAIN)
        canvas = FigureCanvasAgg(figure)
        figure.draw_without_rendering()  # places axes and ticks, on which labels depend
        for (_, means, _), axes in zip(found, grid.flat, strict=True):
            _label(axes, means, canvas)
        return figure

    def _of(self, run: Summed) -> pd.DataFrame:
        means = select_means(run, self.metric, self.methods)
        known = run.run.manifest.get("cost") or {}
        costs = {name: found[self.cost] for name, found in known.items() if self.cost in found}
        if not means["explainer"].isin(costs).any():
            raise no_data(run, f"cost in {self.cost}", "evaluate it again, which measures costs (make table-methods)")
        return means.assign(cost=means["explainer"].map(costs)).dropna(subset=["cost", "mean"])

    def _panel(self, axes: Axes, means: pd.DataFrame, label: str) -> None:
        for row in means.to_dict("records"):
            colour, mark, face = (CONTROL, "s", "white") if row["blind"] else (METHOD, "o", METHOD)
            axes.plot([row["cost"]] * 2, [row["low"], row["high"]], color=colour, lw=1)
            axes.plot(row["cost"], row["mean"], mark, color=colour, markerfacecolor=face, ms=4.5)
        if (means["cost"] > 0).all():
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=1)  # a method without passes of its own is at 0
            axes.set_xlim(left=-0.3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.margins(x=0.12, y=0.12)
        axes.grid(color="#eeeeee", lw=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel(LABELS.get(self.cost, f"{self.cost} a map"), fontsize=LABEL, **PLAIN)
        axes.set_ylabel(
            break_name(label, 30) + direction_arrow(means["higher_is_better"].iloc[0]), fontsize=LABEL, **PLAIN
        )


def _label(axes: Axes, means: pd.DataFrame, canvas: FigureCanvasAgg) -> None:
    """Place a label at each mark, free of other labels, marks and intervals, the most crowded first."""
    rows, points = means.to_dict("records"), canvas.figure.dpi / 72
    marks = np.array([axes.transData.transform((row["cost"], row["mean"])) for row in rows])
    taken = [Bbox.from_extents(x - 3 * points, y - 3 * points, x + 3 * points, y + 3 * points) for x, y in marks]
    for row, (x, _) in zip(rows, marks, strict=True):
        if np.isfinite([row["low"], row["high"]]).all():
            low, high = (axes.transData.transform((row["cost"], row[key]))[1] for key in ("low", "high"))
            taken.append(Bbox.from_extents(x - points, low, x + points, high))
    crowd = (np.linalg.norm(marks[:, None] - marks[None], axis=2) < CROWD * points).sum(axis=1)
    for which in np.argsort(-crowd, kind="stable").tolist():
        row, mark = rows[which], marks[which]
        name, font = (
            shorten(row["explainer"], 30),
            FontProperties(size=SMALL, style="italic" if row["blind"] else "normal"),
        )
        measure = canvas.get_renderer().get_text_width_height_descent
        width, height = measure(name, font, False)[0], measure(f"lp{name}", font, False)[1]  # a line's full height
        size, others = (width + 2 * points, height + 2 * points), np.delete(marks, which, axis=0)
        box = _free(axes.get_window_extent(), mark, size, taken, others, points)
        taken.append(box)
        away = np.linalg.norm(marks - np.clip(marks, box.min, box.max), axis=1)
        alone = away[which] < NEAR * points and away[which] < 0.7 * np.delete(away, which).min(initial=np.inf)
        offset = (np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) - mark) / points
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
        text = axes.annotate(
            name,
            (row["cost"], row["mean"]),
            tuple(offset.tolist()),
            textcoords="offset points",
            fontproperties=font,
            color="#555555" if row["blind"] else "black",
            ha="center",
            va="center",
            arrowprops=None if alone else line,
            **PLAIN,
        )
        text.set_in_layout(False)


def _free(
    inside: BboxBase,
    mark: np.ndarray,
    size: tuple[float, float],
    taken: Sequence[Bbox],
    others: np.ndarray,
    points: float,
) -> Bbox:
    """The nearest free place around a mark, preferably not behind another mark; else the last one tried."""
    half = np.array(size) / 2
    for strict, reach, angle in product((True, False), REACH, AROUND.tolist()):
        centre = mark + np.array([np.cos(angle), np.sin(angle)]) * (reach * points + half)
        box = Bbox.from_bounds(*map(float, centre - half), *size)  # type: ignore[call-arg]
        within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
        free = within and not any(box.overlaps(other) for other in taken)
        if free and not (strict and _behind(centre, mark, others, 4 * points)):
            break
    return box


def _behind(start: np.ndarray, end: np.ndarray, others: np.ndarray, near: float) -> bool:
    """Whether the line from start to end passes another mark, which a reader would take for its end."""
    way, others = end - start, others[np.linalg.norm(others - end, axis=1) >= near]
    along = ((others - start) @ way / (way @ way)).clip(0, 1)
    return bool((np.linalg.norm(others - start - along[:, None] * way, axis=1) < near).any())
