"""Critical-difference diagrams, and how far any two metrics agree."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.style import (
    CONTROL,
    LABEL,
    METHOD,
    MINUS,
    PAGE,
    PLAIN,
    SCREEN,
    SMALL,
    TITLE,
    save,
    shorten,
)
from sfam_bench.report.names import Named, slug
from sfam_bench.statistics import RUN
from sfam_bench.statistics.agreement import find_cliques

NUMBERED = 16  # metrics: more have colours alone, and their numbers in meta-tau.csv
ROW, BAR = 0.15, 0.08  # inches of a label and of a clique's bar
ABOVE, SIDE = 0.72, 1.95  # inches over the axis of ranks, and of the names on either side of it
LONGEST = 26  # characters of a name
DIVERGING = "PuOr"  # distinguishable with any colour vision, and in grey by the numbers


@dataclass(frozen=True)
class Diagram:
    """A metric with its title, and its rows of meta.ranks, best first."""

    title: str
    ranks: pd.DataFrame

    @property
    def bars(self) -> list[tuple[int, int]]:
        """First and last rank of each group not separated by Nemenyi's test."""
        return find_cliques(self.ranks["rank"].to_numpy(), float(self.ranks["critical_difference"].iloc[0]))

    @property
    def height(self) -> float:
        """In inches."""
        return ABOVE + 0.15 + ROW * -(-len(self.ranks) // 2) + BAR * len(self.bars)


def diagram(ranks: pd.DataFrame, metrics: Catalogue, of: str = "") -> Diagram:
    """The diagram of a metric from its rows of meta.ranks."""
    metric = str(ranks["metric"].iloc[0])
    title = " · ".join(filter(None, [shorten(of, 24), shorten(metrics.title(metric), 60)]))
    return Diagram(title, ranks.sort_values("rank", kind="stable"))


def critical_differences(
    ranks: pd.DataFrame, metrics: Catalogue, blind: Container[str], out: Path, named: Named = slug
) -> list[Path]:
    """Draw a critical-difference diagram for each metric of one (dataset, model, target)."""
    found = [diagram(part, metrics) for _, part in ranks.groupby("metric", sort=False)]
    if not found:
        return []
    titles = [str(ranks[name].iloc[0]) for name in RUN]
    return save(draw_diagrams(found, blind, " · ".join(titles)), out, named("meta", "ranks", *titles), SCREEN)


def draw_diagrams(diagrams: Sequence[Diagram], blind: Container[str], title: str = "") -> Figure:
    """Draw the diagrams below one another."""
    head = 0.35 if title else 0.05
    whole = head + sum(each.height for each in diagrams)
    figure = Figure(figsize=(PAGE, whole))
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.1 / whole, va="top", **PLAIN)
    top = whole - head
    for each in diagrams:
        top -= each.height
        axes = figure.add_axes((SIDE / PAGE, top / whole, 1 - 2 * SIDE / PAGE, each.height / whole))
        _diagram(axes, each, blind)
    return figure


def _diagram(axes: Axes, shown: Diagram, blind: Container[str]) -> None:
    """Draw the rank axis on top, bars below it, and names on both sides; y is in inches from the bottom."""
    part, bars, count, line = shown.ranks, shown.bars, len(shown.ranks), shown.height - ABOVE
    difference, p = (float(part[name].iloc[0]) for name in ("critical_difference", "p"))
    axes.set_xlim(1 - 0.02 * count, count + 0.02 * count)
    axes.set_ylim(0, shown.height)
    axes.set_axis_off()
    axes.plot([1, count], [line, line], color="black", lw=0.9)
    step = max(1, count // 10)
    for tick in [1, *range(1 + step, count - step // 2, step), count]:
        axes.plot([tick, tick], [line, line + 0.05], color="black", lw=0.9)
        axes.text(tick, line + 0.07, str(tick), ha="center", va="bottom", fontsize=SMALL)
    tested = "" if np.isnan(p) else f"; Friedman p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    note = f"mean rank over {part['blocks'].iloc[0]} {part['of'].iloc[0]}, 1 is best{tested}"
    edges = [(0.05 - SIDE) / (PAGE - 2 * SIDE), 1 + (SIDE - 0.05) / (PAGE - 2 * SIDE)]
    axes.text(edges[0], line + 0.52, shown.title, transform=_inches(axes), fontsize=TITLE, weight="bold", **PLAIN)
    axes.text(edges[1], line + 0.52, note, transform=_inches(axes), fontsize=SMALL, color="#444444", ha="right")
    if difference < count - 1:
        axes.plot([1, 1 + difference], [line + 0.27] * 2, color="black", lw=1.4)
        for end in (1, 1 + difference):
            axes.plot([end, end], [line + 0.24, line + 0.3], color="black", lw=1.4)
        axes.text(1 + difference, line + 0.27, f"  CD = {difference:.2f}", fontsize=SMALL, va="center")
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
        label = shorten(name, LONGEST)
        axes.annotate(
            f"{label}  {place:.1f}" if side == "right" else f"{place:.1f}  {label}",
            (edge, low),
            (-3 if side == "right" else 3, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=LABEL,
            color="#555555" if name in blind else "black",
            style="italic" if name in blind else "normal",
            annotation_clip=False,
            **PLAIN,
        )


def _inches(axes: Axes) -> mpl.transforms.Transform:
    return mpl.transforms.blended_transform_factory(axes.transAxes, axes.transData)


def agreement_matrix(
    labels: Sequence[str], taus: tuple[np.ndarray, np.ndarray], title: str, out: Path, named: Named = slug
) -> list[Path]:
    """Draw Kendall's tau of any two metrics: all explainers below the diagonal, pair-dependent ones above it."""
    count = len(labels)
    size = max(3.2, (0.44 if count <= NUMBERED else 0.2) * count) + 3.2
    figure = draw_taus(labels, taus, size)
    figure.suptitle(f"Do metrics rank explainers alike? Kendall's tau\n{title}", fontsize=10, **PLAIN)
    return save(figure, out, named("meta", "agreement", *title.split(" · ")), SCREEN)


def draw_taus(labels: Sequence[str], taus: tuple[np.ndarray, np.ndarray], width: float = PAGE) -> Figure:
    """Draw two matrices as one, below and above the diagonal."""
    metrics, count = [shorten(label, 52) for label in labels], len(labels)
    shown = np.where(np.tri(count, dtype=bool), *taus)
    np.fill_diagonal(shown, np.nan)
    figure = Figure(figsize=(width, width - 0.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, vmin=-1, vmax=1, cmap=DIVERGING)
    for row, column in zip(*np.nonzero(np.isfinite(shown)), strict=True) if count <= NUMBERED else ():
        value = shown[row, column]
        text = f"{value:.2f}".replace("-", MINUS)
        colour = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_xticks(range(count), metrics, rotation=40, ha="right", rotation_mode="anchor", fontsize=LABEL, **PLAIN)
    axes.set_yticks(range(count), metrics, fontsize=LABEL, **PLAIN)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    numbers = "Numbers" if count <= NUMBERED else "Colours"
    axes.set_title(
        f"{numbers}: Kendall's tau of the orders of the methods by two metrics\n"
        "below the diagonal: all methods; above: without those that ignore the reference",
        fontsize=LABEL,
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels([f"{MINUS}1\nreversed", "0\nunrelated", "1\nsame\norder"], fontsize=SMALL)
    bar.outline.set_visible(False)
    return figure
