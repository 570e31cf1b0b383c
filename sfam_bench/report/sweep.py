"""Explainers that differ in one field alone, drawn along it: "sfam gamma 0", "sfam gamma 0.5", ..."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfam_bench.report.figures import CONTROL, METHOD, PLAIN, REFERENCE
from sfam_bench.report.names import COMPARED, arrow, group, slug, sort_metrics, words
from sfam_bench.statistics import FACTS

NUMBERED = r"^(?P<sweep>.+) (?P<at>-?\d+(?:\.\d+)?)$"
FEWEST = 3  # values that make a sweep


def sweeps(summary: pd.DataFrame, out: Path) -> list[Path]:
    """A figure for each sweep of one (dataset, model, target), as PNG and SVG in `out`."""
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna() & (summary["count"] > 0)]
    own = own[own["metric"].map(group).isin(COMPARED)]
    numbered = own.join(own["explainer"].str.extract(NUMBERED)).dropna(subset="sweep")
    paths: list[Path] = []
    for name, part in numbered.assign(at=numbered["at"].astype(float)).groupby("sweep", sort=False):
        if part["at"].nunique() >= FEWEST:
            paths += _draw(str(name), part.sort_values("at"), own, out)
    return paths


def _draw(name: str, part: pd.DataFrame, others: pd.DataFrame, out: Path) -> Iterator[Path]:
    """A panel for each metric; what does not sweep stands as a level."""
    head, _, field = name.rpartition(" ")
    metrics = sort_metrics(part["metric"].drop_duplicates().tolist())
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(0.6 + 2.6 * columns, 0.9 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(metrics) :]:
        axes.set_axis_off()
    for metric, axes in zip(metrics, grid.flat, strict=False):
        _panel(axes, part[part["metric"] == metric], others[others["metric"] == metric])
        axes.set_xlabel(field, fontsize=8.5, **PLAIN)
    titles = [str(part[key].iloc[0]) for key in ("dataset", "model", "target")]
    figure.suptitle(f"{head} along {field} · {' · '.join(titles)}", fontsize=10, **PLAIN)
    path = out / f"{slug('sweep', name, *titles)}.png"
    figure.savefig(path, dpi=130)
    yield path
    with mpl.rc_context({"svg.hashsalt": "sfam_bench"}):  # the same numbers give the same file
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    yield path.with_suffix(".svg")


def _panel(axes: Axes, part: pd.DataFrame, others: pd.DataFrame) -> None:
    axes.fill_between(part["at"], part["low"], part["high"], color=METHOD, alpha=0.18, lw=0)
    axes.plot(part["at"], part["mean"], "o-", color=METHOD, ms=3, lw=1.2)
    levels = others[~others["explainer"].isin(part["explainer"])]
    for row in levels.to_dict("records"):
        colour = REFERENCE if row["explainer"] == "lafam" else CONTROL
        axes.axhline(row["mean"], color=colour, lw=0.9, ls=":")
        at, side = (part["at"].max(), "right") if row["explainer"] == "lafam" else (part["at"].min(), "left")
        axes.annotate(row["explainer"], (at, row["mean"]), fontsize=6.5, color=colour, ha=side, va="bottom", **PLAIN)
    axes.set_title(words(str(part["metric"].iloc[0])) + arrow(part["higher_is_better"].iloc[0]), fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
