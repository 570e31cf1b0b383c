"""Curves of deletion and insertion, several runs one below the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from sfam_bench.report.figures.curves import curve_panel, draw_curve_panels
from sfam_bench.report.figures.drawings.chosen import no_data, select_explainers
from sfam_bench.report.stored import Stored
from sfam_bench.runs.reader import read_curves


@dataclass(frozen=True)
class Curves:
    """Mean score and its 95 % interval over classes as pixels are removed or inserted: a row for each run.

    runs: names of stored runs, by what they are called in the figure.
    walks: names of curves, as deletion_mean_colour.
    methods: which stand in each panel, not more than one can tell apart.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    walks: Sequence[str]
    methods: Sequence[str]

    def __call__(self, stored: Stored) -> Figure:
        panels, controls = [], set()
        for title, name in self.runs.items():
            run = stored.run(name)
            curves = read_curves(run.run.root)
            for each in self.walks:
                there = curves.loc[curves["curve"] == each, "explainer"].unique().tolist()
                if not there:
                    raise no_data(
                        run, f"{each} curves", "evaluate it with metric=[insertion_minus_deletion] curves=true"
                    )
                select_explainers(run, self.methods, there, f"{each} curve")
                panels.append(curve_panel(run.run, curves, each, title))
            controls |= {*run.run.blind}
        return draw_curve_panels(panels, self.methods, controls, len(self.walks))
