"""Means of all methods side by side, and along a field of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_

from matplotlib.figure import Figure

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count
from sfam_bench.report.figures.drawings.chosen import no_data, select_explainers, select_means, select_metrics
from sfam_bench.report.figures.means import draw_means, panel
from sfam_bench.report.figures.sweep import draw_along, find_sweeps
from sfam_bench.report.figures.sweep import panel as swept
from sfam_bench.report.stored import Stored


@dataclass(frozen=True)
class Means(Checked):
    """Means and 95 % intervals over classes, with the level of chance: a panel for each run and metric.

    runs: names of stored runs, by what they are called in the figure.
    metrics: names or patterns.
    columns: panels side by side.
    methods: which rows; all where none is named.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    metrics: Sequence[str]
    columns: Count = 3
    methods: Sequence[str] = ()

    def __call__(self, stored: Stored) -> Figure:
        panels = []
        for title, name in self.runs.items():
            run = stored.run(name)
            for metric in select_metrics(run, self.metrics):
                found = panel(run.among([metric]), metric, run.catalogue, title if len(self.runs) > 1 else "")
                panels.append(with_(found, means=select_means(run, metric, self.methods)))
        return draw_means(panels, min(self.columns, len(panels)))


@dataclass(frozen=True)
class AlongField(Checked):
    """Means and 95 % intervals along a field: a panel for each run and metric.

    runs: names of stored runs, by what they are called in the figure.
    field: the number in which the explainers differ, such as gamma.
    metrics: names or patterns.
    levels: explainers that stand as lines.
    columns: panels side by side.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    field: str
    metrics: Sequence[str]
    levels: Sequence[str] = ()
    columns: Count = 3

    def __call__(self, stored: Stored) -> Figure:
        panels = []
        for title, name in self.runs.items():
            run = stored.run(name)
            found = [sweep for sweep in find_sweeps(run.run.manifest) if sweep.field == self.field]
            if not found:
                raise no_data(
                    run, f"explainers along {self.field}", "evaluate it with variants=gamma (make table-choices)"
                )
            for metric in select_metrics(run, self.metrics):
                own = select_means(run, metric, ())
                levels = select_explainers(run, self.levels, own["explainer"].tolist(), metric) if self.levels else []
                kept = own[own["explainer"].isin([*found[0].points, *levels])]
                panels.append(swept(kept, found[0], metric, run.catalogue, title if len(self.runs) > 1 else ""))
        return draw_along(panels, self.field, min(self.columns, len(panels)))
