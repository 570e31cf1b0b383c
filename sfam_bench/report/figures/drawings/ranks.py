"""Mean ranks with critical differences, and how far metrics agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from sfam_bench.report.figures.drawings.chosen import no_data, select_metrics
from sfam_bench.report.figures.meta_figures import diagram, draw_diagrams, draw_taus
from sfam_bench.report.stored import Stored
from sfam_bench.statistics import worth as meta
from sfam_bench.statistics.agreement import tau_matrix

FEWEST = 2  # metrics that can agree, and explainers that can be ranked


@dataclass(frozen=True)
class CriticalDifference:
    """Mean ranks of the methods; a bar joins those not separated by Nemenyi's test at 5 % (Demšar, JMLR 2006).

    runs: names of stored runs, by what they are called in the figure.
    metrics: names or patterns; a diagram for each.
    methods: which are ranked; all where none is named.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    metrics: Sequence[str]
    methods: Sequence[str] = ()

    def __call__(self, stored: Stored) -> Figure:
        diagrams, blind = [], set()
        for title, name in self.runs.items():
            run = stored.run(name)
            specs = {metric: run.catalogue.facts[metric] for metric in select_metrics(run, self.metrics)}
            methods = self.methods or run.run.matrix.explainers
            found = meta.ranks(run.run.matrix.select(partial(_is_of, methods)), specs)
            for metric in specs:
                own = found[found["metric"] == metric]
                if own.empty:
                    raise no_data(
                        run, f"ranks of {metric}", "choose a metric with a better side, and two methods or more"
                    )
                diagrams.append(diagram(own, run.catalogue, title if len(self.runs) > 1 else ""))
            blind |= {*run.run.blind}
        return draw_diagrams(diagrams, blind)


def _is_of(methods: Sequence[str], metric: str, explainer: str) -> bool:
    return explainer in methods


@dataclass(frozen=True)
class MetricAgreement:
    """Kendall's tau of the rankings by any two metrics; without blind methods above the diagonal.

    run: name of a stored run.
    metrics: names or patterns.
    """

    caption: str
    alt: str
    run: str
    metrics: Sequence[str]

    def __call__(self, stored: Stored) -> Figure:
        run = stored.run(self.run)
        names, blind = select_metrics(run, self.metrics), run.run.blind
        scores = meta.ratings(run.means, {name: run.catalogue.facts[name] for name in names})
        scores = scores.set_axis(scores.index.get_level_values("metric"), axis=0).dropna(axis=1, how="all")
        scores = scores.loc[[name for name in names if name in scores.index]]
        if len(scores) < FEWEST:
            raise no_data(run, "two of these metrics with a better side", "evaluate more of them (make table-metrics)")
        seeing = scores[[name for name in scores.columns if name not in blind]]
        taus = [tau_matrix(np.asarray(each, dtype=float)) for each in (scores, seeing)]
        return draw_taus([run.catalogue.label(str(name)) for name in scores.index], (taus[0], taus[1]))
