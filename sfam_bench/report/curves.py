"""Deletion and insertion curves, drawn again from their stored points: means and bands."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfam_bench.report.figures import CONTROL, PLAIN
from sfam_bench.report.names import slug, sort_explainers, sort_metrics, words
from sfam_bench.statistics import RUN, clustered_intervals
from sfam_bench.store import Run, read_curves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
STYLES = ("-", "--", "-.", ":")
DRAWS = 2_000  # of a band's bootstrap
PANEL = 6  # explainers in one panel; more would lie on top of one another


def draw_curves(run: Run, out: Path) -> list[Path]:
    """Figures of a run's curves in `out`, as PNG and SVG, a few methods each beside the controls; none without curves.

    Bands are 95 % intervals, bootstrapped over the classes of the queries.
    """
    curves, blind = read_curves(run.root), run.manifest.get("blind") or ()
    if curves.empty:
        return []
    labels = run.pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    titles = tuple(str(run.manifest.get(name, "")) for name in RUN)
    names = sort_explainers(curves["explainer"].drop_duplicates().tolist(), blind)
    methods = [name for name in names if name not in blind]
    controls = [name for name in names if name in blind and name in ("lafam", "chance", "centre")]
    sheets = [methods[start : start + PANEL] for start in range(0, len(methods), PANEL)] or [[]]
    paths: list[Path] = []
    for number, sheet in enumerate(sheets, 1):
        paths += _sheet(curves, labels, titles, [*sheet, *controls], controls, number, out)
    return paths


def _sheet(
    curves: pd.DataFrame,
    labels: pd.Series,
    titles: tuple[str, ...],
    names: list[str],
    controls: list[str],
    number: int,
    out: Path,
) -> list[Path]:
    walks = sort_metrics(curves["curve"].drop_duplicates().tolist())
    columns = min(2, len(walks))
    rows = -(-len(walks) // columns)
    figure = Figure(figsize=(1.5 + 3.4 * columns, 0.6 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat[len(walks) :]:
        axes.set_axis_off()
    for walk, axes in zip(walks, grid.flat, strict=False):
        part = curves[curves["curve"] == walk]
        for place, name in enumerate(names):
            _line(axes, part[part["explainer"] == name], labels, name, place, name in controls)
        axes.set_title(words(walk), fontsize=9, **PLAIN)
        axes.set_xlabel("share of pixels " + ("restored" if walk.startswith("insertion") else "removed"), fontsize=8)
        axes.set_ylabel("score", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, texts = grid.flat[0].get_legend_handles_labels()
    legend = figure.legend(handles, texts, loc="outside right upper", fontsize=7.5, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(" · ".join(titles), fontsize=10, **PLAIN)
    path = out / f"{slug('curves', *titles)}-{number}.png"
    figure.savefig(path, dpi=130)
    with mpl.rc_context({"svg.hashsalt": "sfam_bench"}):  # the same numbers give the same file
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return [path, path.with_suffix(".svg")]


def _line(axes: Axes, part: pd.DataFrame, labels: pd.Series, name: str, place: int, control: bool) -> None:
    if part.empty:
        return
    at, scores = np.stack(part["fraction"].tolist())[0], np.stack(part["score"].tolist()).astype(float)
    found = clustered_intervals(scores, labels.loc[part["query_id"]].to_numpy(), draws=DRAWS)
    low, mean, high = (np.array([getattr(point, key) for point in found]) for key in ("low", "mean", "high"))
    colour = CONTROL if control else COLOURS[place % len(COLOURS)]
    axes.plot(at, mean, color=colour, lw=1.3, ls=STYLES[place % len(STYLES)], label=name)
    axes.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
