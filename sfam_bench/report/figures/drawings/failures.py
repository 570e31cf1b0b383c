"""The worst pairs of a method, and its flagged pairs."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count
from sfam_bench.report.figures.drawings.chosen import no_data
from sfam_bench.report.figures.figures import Shown, draw_map, load_shown, select_pairs
from sfam_bench.report.figures.style import (
    CONTROL,
    LABEL,
    METHOD,
    PAGE,
    PLAIN,
    REFERENCE,
    SMALL,
    break_name,
    shorten,
    strip_axes,
)
from sfam_bench.report.names import direction_arrow, to_prose
from sfam_bench.report.page.pair_order import select_flagged
from sfam_bench.report.stored import Stored, Summed
from sfam_bench.report.tables.flagged import FLAGS
from sfam_bench.runs.matrix import FACTS, PAIR

REASONS = 8  # of flags, the most frequent first
ABOVE = 2.5  # inches of the two plots


@dataclass(frozen=True)
class Failures(Checked):
    """The pairs with a method's worst scores, and the number of flagged pairs by reason.

    run: name of a stored run.
    method: whose failures.
    metric: by which they are told.
    pictures: show pairs whose images were kept, where there are any; else the worst of all, by name.
    count: pairs that are shown.
    """

    caption: str
    alt: str
    run: str
    method: str
    metric: str
    pictures: bool = True
    count: Count = 5

    def __call__(self, stored: Stored) -> Figure:
        run = stored.run(self.run)
        ordered = self._ordered(run)
        kept = select_pairs(run.run, len(run.run.pairs)) if self.pictures else []
        pictured = {(row["query_id"], row["reference_id"]) for row in kept}
        keys = [*zip(*(ordered[name] for name in PAIR), strict=True)]
        which = [at for at, key in enumerate(keys) if key in pictured or not pictured][: self.count]
        tall = 2 * PAGE / (2 * self.count) + 0.5 if pictured else 0.3 + 0.17 * len(which)
        figure = Figure(figsize=(PAGE, ABOVE + tall), layout="constrained")
        rows = figure.add_gridspec(2, 1, height_ratios=(ABOVE, tall))
        above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
        left, right = above.subplots(1, 2, width_ratios=(1.25, 1))
        self._values(strip_axes(left), ordered["value"].to_numpy(dtype=float), which, run, len(pictured))
        _flags(strip_axes(right), run)
        worst = [{str(key): value for key, value in row.items()} for row in ordered.iloc[which].to_dict("records")]
        if pictured:
            _pictures(below, load_shown(run.run, worst), worst, self.method)
        else:
            _names(below, worst)
        return figure

    def _ordered(self, run: Summed) -> pd.DataFrame:
        """The pairs with their values, worst first."""
        better = run.catalogue.direction(self.metric)
        if better is None:
            raise no_data(
                run, f"metric {self.metric} with a better side", "evaluate it with that metric (metric=[...])"
            )
        matrix = run.run.matrix
        own = pd.DataFrame(matrix.pairs, columns=PAIR)
        own = own.assign(value=matrix.entries.get((self.metric, self.method), np.nan)).dropna(subset="value")
        if own.empty:
            raise no_data(run, f"{self.metric} of {self.method}", f"evaluate it with explainer=[{self.method},...]")
        joined = own.merge(run.run.pairs.drop_duplicates(PAIR), on=PAIR)
        return joined.sort_values(["value", *PAIR], ascending=[bool(better), True, True], kind="stable")

    def _values(self, axes: Axes, values: np.ndarray, which: list[int], run: Summed, pictured: int) -> None:
        """Draw all values in order; the shown pairs are numbered."""
        axes.plot(np.arange(1, len(values) + 1), values, ".", color=CONTROL, ms=3)
        axes.plot(np.array(which) + 1, values[which], "D", color=REFERENCE, ms=4.5, ls="")
        axes.axhline(values.mean(), color=METHOD, lw=0.9, ls="--")
        axes.annotate(
            "mean", (1, values.mean()), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", fontsize=SMALL, color=METHOD,
        )  # fmt: skip
        axes.set_xlabel(f"{len(values)} pairs, worst first", fontsize=SMALL)
        better = direction_arrow(run.catalogue.direction(self.metric))
        axes.set_ylabel(break_name(run.catalogue.label(self.metric), 26) + better, fontsize=SMALL, **PLAIN)
        of = f"worst of the {pictured} pairs with images" if pictured else "worst pairs"
        axes.set_title(f"{shorten(self.method, 26)}; diamonds: {of}, below", fontsize=LABEL, **PLAIN)


def _flags(axes: Axes, run: Summed) -> None:
    """Counts of pairs flagged on some metric of a method, by reason; without flags by design."""
    scores = run.run.matrix.select(lambda _, explainer: explainer != FACTS)
    why = select_flagged(run.run.pairs, scores).drop_duplicates([*PAIR, "reason"])
    counts = Counter(why["reason"].tolist()).most_common(REASONS)
    labels = [break_name(FLAGS.get(name, to_prose(name)), 26, 3) for name, _ in counts]
    heights = np.array([max(1, (label.count("\n") + 1) / 2) for label in labels])  # a bar has room for two lines
    places = heights.cumsum() - (heights + 1) / 2
    axes.barh(places, [count for _, count in counts], color=METHOD, height=0.6)
    for place, (_, count) in zip(places, counts, strict=True):
        axes.annotate(str(count), (count, place), (3, 0), textcoords="offset points", va="center", fontsize=SMALL)
    axes.set_yticks(places, labels, fontsize=SMALL, **PLAIN)
    axes.set_ylim(max(heights.sum(), 3) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_xlabel(f"pairs of {len(run.run.pairs.drop_duplicates(PAIR))}", fontsize=SMALL)
    axes.set_title("flagged by some metric, by reason" if counts else "no pair is flagged", fontsize=LABEL)


def _pictures(figure: SubFigure, pairs: list[Shown], rows: list[dict[str, object]], method: str) -> None:
    """Draw the images of each pair above, and the method's maps below."""
    grid = figure.subplots(2, 2 * len(pairs), squeeze=False)
    for at, (pair, row) in enumerate(zip(pairs, rows, strict=True)):
        for side in (0, 1):
            image = pair.images[side]
            top, low = grid[0, 2 * at + side], grid[1, 2 * at + side]
            top.imshow(image)
            draw_map(low, image, pair.maps.get(method, (None, None))[side])
            for axes in (top, low):
                axes.set_axis_off()
            low.text(
                0.5, -0.04, ("query", "reference")[side], transform=low.transAxes, ha="center", va="top", fontsize=SMALL
            )
        title = f"{at + 1}: {row['value']:.2f}\n{shorten(str(row['query_class']), 24)}"
        grid[0, 2 * at].set_title(title, fontsize=SMALL, loc="left", **PLAIN)


def _names(figure: SubFigure, rows: list[dict[str, object]]) -> None:
    """List the pairs, if no images were kept."""
    for at, row in enumerate(rows):
        text = f"{at + 1}.  {row['value']:.3f}   {to_prose(str(row['kind']))}, score {row['score']:.3f}:  "
        text += f"{shorten(str(row['query_class']), 30)} → {shorten(str(row['reference_class']), 30)}"
        figure.text(0.04, 1 - (at + 0.9) / (len(rows) + 0.8), text, fontsize=LABEL, va="center", **PLAIN)
