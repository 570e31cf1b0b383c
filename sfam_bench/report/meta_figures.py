"""Critical-difference diagrams, and how far any two metrics agree, as PNG and SVG."""

from collections.abc import Container, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfam_bench.agreement import cliques
from sfam_bench.report.figures import CONTROL, METHOD, PLAIN
from sfam_bench.report.names import arrow, slug, words
from sfam_bench.statistics import RUN

NUMBERED = 16  # metrics: more have colours alone, and their numbers in meta-tau.csv
ROW, BAR = 0.17, 0.09  # inches of a label and of a clique's bar
DIVERGING = "PuOr"  # told apart with any colour vision, and in grey by the numbers
MINUS = "\N{MINUS SIGN}"


def critical_differences(ranks: pd.DataFrame, directions: pd.Series, blind: Container[str], out: Path) -> list[Path]:
    """A diagram for each metric of one (dataset, model, target): mean ranks, bars over what cannot be told apart."""
    parts = [part.sort_values("rank", kind="stable") for _, part in ranks.groupby("metric", sort=False)]
    if not parts:
        return []
    runs = [_cliques(part) for part in parts]
    heights = [0.87 + ROW * (1 + -(-len(part) // 2)) + BAR * len(bars) for part, bars in zip(parts, runs, strict=True)]
    figure = Figure(figsize=(8.2, 0.45 + sum(heights)))
    titles = [str(ranks[name].iloc[0]) for name in RUN]
    figure.suptitle(" · ".join(titles), fontsize=10, y=1 - 0.14 / figure.get_figheight(), va="top", **PLAIN)
    top = figure.get_figheight() - 0.45
    for part, bars, height in zip(parts, runs, heights, strict=True):
        bottom = (top - height) / figure.get_figheight()
        axes = figure.add_axes((0.27, bottom, 0.46, height / figure.get_figheight()))
        _diagram(axes, part, bars, height, words(part["metric"].iloc[0]), directions, blind)
        top -= height
    return _saved(figure, out / f"{slug('meta', 'ranks', *titles)}.png")


def _cliques(part: pd.DataFrame) -> list[tuple[int, int]]:
    return cliques(part["rank"].to_numpy(), float(part["critical_difference"].iloc[0]))


def _diagram(
    axes: Axes,
    part: pd.DataFrame,
    bars: Sequence[tuple[int, int]],
    height: float,
    title: str,
    directions: pd.Series,
    blind: Container[str],
) -> None:
    """The axis of ranks on top, bars below it, and the names on either side; y is inches from the bottom."""
    count, line = len(part), height - 0.67
    difference, p = (float(part[name].iloc[0]) for name in ("critical_difference", "p"))
    axes.set_xlim(1 - 0.02 * count, count + 0.02 * count)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    axes.plot([1, count], [line, line], color="black", lw=0.9)
    step = max(1, count // 10)
    for tick in [1, *range(1 + step, count - step // 2, step), count]:
        axes.plot([tick, tick], [line, line + 0.05], color="black", lw=0.9)
        axes.text(tick, line + 0.07, str(tick), ha="center", va="bottom", fontsize=7)
    tested = "" if np.isnan(p) else f"; Friedman p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    note = f"mean rank over {part['blocks'].iloc[0]} {part['of'].iloc[0]}{tested}"
    mark = arrow(directions.get(part["metric"].iloc[0]))
    axes.text(-0.55, line + 0.44, f"{title}{mark}", transform=_inches(axes), fontsize=9, weight="bold", **PLAIN)
    axes.text(1.55, line + 0.44, note, transform=_inches(axes), fontsize=7.5, color="#444444", ha="right")
    if difference < count - 1:
        axes.plot([1, 1 + difference], [line + 0.27] * 2, color="black", lw=1.6, solid_capstyle="butt")
        axes.text(1 + difference, line + 0.27, f"  CD {difference:.2f}", fontsize=7.5, va="center")
    places, names = part["rank"].to_numpy(), part["explainer"].tolist()
    for level, (first, last) in enumerate(bars, 1):
        ends = [places[first] - 0.008 * count, places[last] + 0.008 * count]
        axes.plot(ends, [line - BAR * level] * 2, color="black", lw=2.6, solid_capstyle="round")
    left = -(-count // 2)
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        row = number if number < left else count - 1 - number
        low = line - BAR * len(bars) - ROW * (row + 1)
        colour = CONTROL if name in blind else METHOD
        edge, side = ((1 - 0.02 * count), "right") if number < left else ((count + 0.02 * count), "left")
        axes.plot([place, place, edge], [line, low, low], color=colour, lw=0.8, ls="--" if name in blind else "-")
        shown = f"{name}  {place:.1f}" if side == "right" else f"{place:.1f}  {name}"
        axes.annotate(
            shown,
            (edge, low),
            (-3 if side == "right" else 3, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=7.5,
            color="#555555" if name in blind else "black",
            style="italic" if name in blind else "normal",
            annotation_clip=False,
            **PLAIN,
        )


def _inches(axes: Axes) -> mpl.transforms.Transform:
    return mpl.transforms.blended_transform_factory(axes.transAxes, axes.transData)


def agreement_matrix(scores: pd.DataFrame, taus: tuple[np.ndarray, np.ndarray], title: str, out: Path) -> list[Path]:
    """Kendall's tau of any two metrics: all explainers below the diagonal, without blind ones above it.

    `scores` has a row for each metric; `taus` are the two matrices.
    """
    metrics, count = [words(str(name)) for name in scores.index], len(scores)
    shown = np.where(np.tri(count, dtype=bool), *taus)
    np.fill_diagonal(shown, np.nan)
    size = max(3.2, (0.44 if count <= NUMBERED else 0.2) * count)
    figure = Figure(figsize=(size + 3.2, size + 2.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, vmin=-1, vmax=1, cmap=DIVERGING)
    for row, column in zip(*np.nonzero(np.isfinite(shown)), strict=True) if count <= NUMBERED else ():
        value = shown[row, column]
        text = f"{value:.2f}".replace("-", MINUS)
        colour = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(count), metrics, rotation=40, ha="right", rotation_mode="anchor", fontsize=8, **PLAIN)
    axes.set_yticks(range(count), metrics, fontsize=8, **PLAIN)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("below the diagonal: all explainers; above: without those blind to the pair", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels([f"{MINUS}1 reversed", "0", "1 same order"], fontsize=8)
    bar.outline.set_visible(False)
    figure.suptitle(f"Do metrics rank explainers alike? Kendall's tau\n{title}", fontsize=10, **PLAIN)
    return _saved(figure, out / f"{slug('meta', 'agreement', *title.split(' · '))}.png")


def _saved(figure: Figure, path: Path) -> list[Path]:
    figure.savefig(path, dpi=130)
    with mpl.rc_context({"svg.hashsalt": "sfam_bench"}):  # the same numbers give the same file
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return [path, path.with_suffix(".svg")]
