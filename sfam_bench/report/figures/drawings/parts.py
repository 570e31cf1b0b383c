"""Where on a bird the heat lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfam_bench.report.figures.drawings.chosen import no_data, select_explainers
from sfam_bench.report.figures.style import LABEL, PAGE, PLAIN, SMALL, shorten
from sfam_bench.report.stored import Stored

FAMILY = "part_heat"  # of metrics.parts.PartEnergy


@dataclass(frozen=True)
class PartHeat:
    """Share of each method's heat near each part over that part's share of the area: 1 is an even map.

    run: name of a stored run.
    methods: in this order; all where none is named.
    """

    caption: str
    alt: str
    run: str
    methods: Sequence[str] = ()

    def __call__(self, stored: Stored) -> Figure:
        run = stored.run(self.run)
        of_family = run.means["metric"].map(run.catalogue.family) == FAMILY
        own = run.means[of_family & (run.means["count"] > 0)]
        if own.empty:
            raise no_data(
                run, f"metric of the family {FAMILY}", "evaluate birds with metric=[parts] (make table-metrics-cub)"
            )
        names = select_explainers(run, self.methods, own["explainer"].drop_duplicates().tolist(), "heat by part")
        wide = own.pivot(index="explainer", columns="metric")
        means = pd.Series(wide["mean"].mean(axis=0))
        parts = means.sort_values(ascending=False, kind="stable").index.tolist()
        mean, low, high = (wide.loc[names, key][parts].to_numpy(dtype=float) for key in ("mean", "low", "high"))
        figure = Figure(figsize=(PAGE, 0.95 + 0.22 * len(names)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(mean, cmap="cividis", vmin=0, aspect="auto")
        half = 0.5 * np.nanmax(mean)
        for (row, column), value in np.ndenumerate(mean):
            unclear = not (low[row, column] > 1 or high[row, column] < 1)
            text = "" if np.isnan(value) else f"({value:.1f})" if unclear else f"{value:.1f}"
            colour = "black" if value > half else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
        titles = [run.catalogue.label(part) for part in parts]
        axes.set_xticks(
            range(len(parts)), [shorten(title, 14) for title in titles], fontsize=LABEL, rotation=35, **PLAIN
        )
        axes.set_yticks(range(len(names)), [shorten(name, 30) for name in names], fontsize=LABEL, **PLAIN)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(mpl.cm.ScalarMappable(image.norm, image.cmap), ax=axes, pad=0.01)
        bar.set_label("heat over area; 1: even", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.axhline(1, color="white", lw=1.2)
        bar.outline.set_visible(False)
        axes.set_title("in brackets: the 95 % interval holds 1, an even map", fontsize=SMALL)
        return figure
