"""Means of explainers over pairs, and paired differences to one explainer."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.statistics.comparisons import compare_with_best, rank_biserial, sign_flip_p
from sfam_bench.statistics.intervals import clustered_intervals
from sfam_bench.statistics.matrices import FACTS, RUN, Matrix, matrices

MEASURED = ["difference", "low", "high", "count", "clusters", "clustered", "p", "effect"]
DIFFERENCE = [*RUN, "explainer", "metric", "to", *MEASURED]
NOT_COMPARED = {"best": False, "tied": False, "p_best": np.nan, "compared": False, "shared": 0, "shared_classes": 0}


def summarise(
    records: pd.DataFrame,
    pairs: pd.DataFrame,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per explainer and metric: mean, interval, flag counts, and comparison with the best.

    `metrics` holds each metric's `higher_is_better`; metrics without it have no best. `best`, `tied` and `p_best` are
    from `compare_with_best`, over `shared` pairs of `shared_classes` classes that all `compared` explainers have.
    """
    directions = {name: spec.get("higher_is_better") for name, spec in (metrics or {}).items()}
    tables = [_summary(matrix, directions, draws, seed) for matrix in matrices(records, pairs)]
    if not tables:
        raise UserError("there are no records to summarise: evaluate some pairs first")
    return pd.concat(tables, ignore_index=True)


def _summary(matrix: Matrix, directions: Mapping[str, bool | None], draws: int, seed: int) -> pd.DataFrame:
    table = pd.DataFrame(matrix.columns, columns=["metric", "explainer"])
    shares = _find_shares(matrix, table["metric"])
    table = table.join(pd.DataFrame(clustered_intervals(matrix.entries, matrix.clusters, draws, seed, shares=shares)))
    table["flagged"] = matrix.flagged
    table["higher_is_better"] = table["metric"].map(directions).astype("boolean")
    table = table.assign(**NOT_COMPARED)
    rivals = table[(table["explainer"] != FACTS) & table["higher_is_better"].notna()]
    for _, group in rivals.groupby("metric", sort=False):
        sign = 1 if group["higher_is_better"].iloc[0] else -1
        found = compare_with_best(sign * matrix.entries[:, group.index], matrix.clusters, draws, seed)
        table.loc[group.index, "best"] = np.arange(len(group)) == found.best
        table.loc[group.index, "tied"], table.loc[group.index, "compared"] = found.tied, found.compared
        table.loc[group.index, "p_best"] = found.p
        table.loc[group.index, ["shared", "shared_classes"]] = found.pairs, found.classes
    leading = dict(zip(RUN, matrix.run, strict=True))
    return table.assign(**leading)[[*RUN, "explainer", *table.columns.drop("explainer")]]


def _find_shares(matrix: Matrix, metrics: pd.Series) -> np.ndarray:
    """Which columns belong to a metric whose values are 0 or 1 for every explainer."""
    binary = (np.isin(matrix.entries, (0, 1)) | np.isnan(matrix.entries)).all(axis=0)
    return np.asarray(pd.Series(binary).groupby(metrics.to_numpy()).transform("all"), dtype=bool)


def paired_difference(
    records: pd.DataFrame,
    pairs: pd.DataFrame,
    to: str = "lafam",
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences of each explainer to `to`, over the pairs that neither has flagged.

    `p` is by sign flips of classes, unadjusted (use `holm` for comparisons that are read together); `effect` is the
    matched-pairs rank-biserial correlation.
    """
    rows: list[tuple[Any, ...]] = []
    for matrix in matrices(records, pairs):
        place = {column: number for number, column in enumerate(matrix.columns)}
        rivals = [(m, e) for m, e in matrix.columns if e not in (to, FACTS) and (m, to) in place]
        own, base = [place[rival] for rival in rivals], [place[metric, to] for metric, _ in rivals]
        differences = matrix.entries[:, own] - matrix.entries[:, base]
        intervals = clustered_intervals(differences, matrix.clusters, draws, seed)
        p_values = sign_flip_p(differences, matrix.clusters, draws, seed)
        found = zip(rivals, differences.T, intervals, p_values.tolist(), strict=True)
        for (metric, explainer), column, interval, p in found:
            rows.append((*matrix.run, explainer, metric, to, *astuple(interval), p, rank_biserial(column)))
    return pd.DataFrame(rows, columns=DIFFERENCE)
