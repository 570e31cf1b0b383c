"""The data of figures from stored runs; UserError with the missing data and the command that makes it."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.report.figures.means import select_scored
from sfam_bench.report.names import sort_explainers
from sfam_bench.report.stored import Summed


def no_data(run: Summed, what: str, how: str) -> UserError:
    """A UserError for a run without the data of a figure."""
    return UserError(f"the stored run {run.name} has no {what}: {how}")


def select_explainers(run: Summed, named: Sequence[str], there: Sequence[str], what: str) -> list[str]:
    """The named explainers, or all; UserError if one has no `what`."""
    if absent := [name for name in named if name not in there]:
        raise no_data(run, f"{what} of {absent[0]}", f"evaluate it with explainer=[{absent[0]},...]")
    return [*named] or sort_explainers([*there], run.run.blind)


def select_metrics(run: Summed, patterns: Sequence[str]) -> list[str]:
    """The metrics of a run that match, in reading order; UserError if a pattern matches none."""
    there = run.metrics
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise no_data(run, f"metric {pattern}", "evaluate it with that metric (metric=[...])")
    return run.catalogue.sort([name for name in there if any(fnmatchcase(name, pattern) for pattern in patterns)])


def select_means(run: Summed, metric: str, named: Sequence[str]) -> pd.DataFrame:
    """The means of a metric for the named explainers, or for all."""
    means = run.among([metric])
    means = select_scored(means[means["metric"] == metric])
    if means.empty:
        raise no_data(run, f"direction of {metric}", "choose another metric")
    names = select_explainers(run, named, means["explainer"].tolist(), metric)
    return means[means["explainer"].isin(names)]
