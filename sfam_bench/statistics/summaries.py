"""Means of explainers over pairs, and paired differences to one explainer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.runs.matrix import FACTS, RUN, Matrix
from sfam_bench.statistics.comparisons import LEVEL, compare_with_best, rank_biserial, sign_flip_p
from sfam_bench.statistics.intervals import clustered_intervals

HELD = 1 << 22  # values of a few metrics at a time
MEASURED = ["difference", "low", "high", "count", "clusters", "clustered", "p", "effect"]
DIFFERENCE = [*RUN, "explainer", "metric", "to", *MEASURED]
NOT_COMPARED = {"best": False, "tied": False, "p_best": np.nan, "compared": False, "shared": 0, "shared_classes": 0}


def summarise(
    matrix: Matrix, metrics: Mapping[str, Mapping[str, Any]] | None = None, draws: int = 10_000
) -> pd.DataFrame:
    """One row per explainer and metric: mean, interval, flag counts, and comparison with the best.

    `metrics` gives each metric's `higher_is_better`; one without has no best. `best`, `tied` and `p_best` are those of
    `compare_with_best`, over `shared` pairs of `shared_classes` classes that all `compared` explainers have.
    """
    if not matrix.columns:
        raise UserError("no records to summarise: evaluate some pairs first")
    directions = {name: spec.get("higher_is_better") for name, spec in (metrics or {}).items()}
    found = pd.concat([_summary(matrix, block, directions, draws) for block in metric_blocks(matrix)])
    found = found.set_index(["metric", "explainer"]).loc[matrix.columns].reset_index()
    leading = dict(zip(RUN, matrix.run, strict=True))
    return found.assign(**leading)[[*RUN, "explainer", "metric", *found.columns.drop(["explainer", "metric"])]]


def plain_means(matrix: Matrix, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The means and counts of `summarise` alone, without intervals and comparisons, which take most of its time."""
    table = pd.DataFrame(matrix.columns, columns=["metric", "explainer"])
    values = [column[np.isfinite(column)] for column in (matrix.block([one])[:, 0] for one in matrix.columns)]
    table["mean"] = [column.mean() if len(column) else np.nan for column in values]
    table["count"] = [len(column) for column in values]
    directions = {name: spec.get("higher_is_better") for name, spec in metrics.items()}
    table["higher_is_better"] = table["metric"].map(directions).astype("boolean")
    return table.assign(**dict(zip(RUN, matrix.run, strict=True)))


def metric_blocks(matrix: Matrix) -> Iterator[list[tuple[str, str]]]:
    """The columns of a few metrics at a time, so that little is held at once."""
    of_metric: dict[str, list[tuple[str, str]]] = {}
    for column in matrix.columns:
        of_metric.setdefault(column[0], []).append(column)
    block: list[tuple[str, str]] = []
    for columns in of_metric.values():
        if block and (len(block) + len(columns)) * len(matrix.pairs) > HELD:
            yield block
            block = []
        block = block + columns
    yield block


def _summary(
    matrix: Matrix, columns: Sequence[tuple[str, str]], directions: Mapping[str, bool | None], draws: int
) -> pd.DataFrame:
    table, entries = pd.DataFrame(columns, columns=["metric", "explainer"]), matrix.block(columns)
    shares = _find_shares(entries, table["metric"])
    table = table.join(pd.DataFrame(clustered_intervals(entries, matrix.clusters, draws, shares=shares)))
    table["flagged"] = [
        ", ".join(f"{name} {rows.sum()}" for name, rows in matrix.flagged(column).items()) for column in columns
    ]
    table["higher_is_better"] = table["metric"].map(directions).astype("boolean")
    table = table.assign(**NOT_COMPARED)
    rivals = table[(table["explainer"] != FACTS) & table["higher_is_better"].notna()]
    for _, group in rivals.groupby("metric", sort=False):
        sign = 1 if group["higher_is_better"].iloc[0] else -1
        found = compare_with_best(sign * entries[:, group.index], matrix.clusters, draws)
        table.loc[group.index, "best"] = np.arange(len(group)) == found.best
        table.loc[group.index, "tied"], table.loc[group.index, "compared"] = found.tied, found.compared
        table.loc[group.index, "p_best"] = found.p
        table.loc[group.index, ["shared", "shared_classes"]] = found.pairs, found.classes
    return table


def _find_shares(entries: np.ndarray, metrics: pd.Series) -> np.ndarray:
    """Which columns belong to a metric whose values are all 0 or 1, over all explainers."""
    binary = (np.isin(entries, (0, 1)) | np.isnan(entries)).all(axis=0)
    return np.asarray(pd.Series(binary).groupby(metrics.to_numpy()).transform("all"), dtype=bool)


def paired_difference(
    matrix: Matrix, to: str = "lafam", draws: int = 10_000, seed: int = 0, corrected: bool = False
) -> pd.DataFrame:
    """Each explainer minus `to`, over the pairs that neither has flagged.

    `p` is by sign flips of classes, of each comparison alone (`holm` adjusts those that are read together); `effect` is
    the matched-pairs rank-biserial correlation. Intervals are of each comparison alone too; `corrected` ones are
    Student's, with Bonferroni's correction for all comparisons of the matrix: they hold together.
    """
    compared = sum(e not in (to, FACTS) and (m, to) in matrix.entries for m, e in matrix.columns)
    level = 1 - LEVEL / max(compared, 1) if corrected else 1 - LEVEL
    rows: dict[tuple[str, str], tuple[Any, ...]] = {}
    for block in metric_blocks(matrix):
        rivals = [(m, e) for m, e in block if e not in (to, FACTS) and (m, to) in matrix.entries]
        if not rivals:
            continue
        differences = matrix.block(rivals) - matrix.block([(metric, to) for metric, _ in rivals])
        intervals = clustered_intervals(differences, matrix.clusters, draws, seed, level, student=corrected)
        p_values = sign_flip_p(differences, matrix.clusters, draws, seed)
        found = zip(rivals, differences.T, intervals, p_values.tolist(), strict=True)
        for (metric, explainer), column, interval, p in found:
            measured = (interval.mean, interval.low, interval.high, interval.count, interval.clusters)
            tested = (interval.clustered, p, rank_biserial(column))
            rows[metric, explainer] = (*matrix.run, explainer, metric, to, *measured, *tested)
    return pd.DataFrame([rows[column] for column in matrix.columns if column in rows], columns=DIFFERENCE)
