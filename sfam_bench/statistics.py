"""Means over pairs with intervals that know of classes, and paired comparisons of explainers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sfam_bench.errors import UserError

RUN = ["dataset", "model", "target"]
PAIR = ["query_id", "reference_id"]
FACTS = "pair"  # the explainer under which facts of the pair itself are recorded
AREA_ERROR = "_area_error"  # ends the names of metrics that check the protocol, and say nothing of an explainer
NO_REASON = "no_reason"  # the flag of a value that is not finite although nothing was flagged
MEASURED = ["difference", "low", "high", "count", "clustered", "p", "p_holm", "effect"]
DIFFERENCE = [*RUN, "explainer", "metric", "to", *MEASURED]
CHUNK = 1 << 22  # resampled cluster counts held at once


@dataclass(frozen=True)
class Interval:
    """A mean over pairs and its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int
    clusters: int
    clustered: bool  # False: one cluster alone, so the pairs were resampled


def clustered_bootstrap(
    values: np.ndarray, clusters: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of `values` with an interval from resampling whole clusters; NaN values are left out."""
    (interval,) = clustered_intervals(np.asarray(values, dtype=float)[:, None], clusters, draws, seed, level)
    return interval


def clustered_intervals(
    values: np.ndarray, clusters: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """`clustered_bootstrap` of each column of `values`; columns over the same clusters share their resamples.

    Percentiles are widened for few clusters (expanded percentile interval, Hesterberg 2015), counted by Kish's
    effective number, which unequal sizes make smaller; benchmarks/coverage.py simulates what that is worth.
    """
    codes, names = pd.factorize(np.asarray(clusters))
    present = np.isfinite(values)
    sums, sizes = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(sums, codes, np.where(present, values, 0.0))
    np.add.at(sizes, codes, present)
    found: dict[int, Interval] = {}
    for used, columns in _by_clusters(sizes > 0):
        if used.sum() < 2:
            found.update((column, _unclustered(values[:, column], draws, seed, level)) for column in columns)
            continue
        lows, highs = _bounds(sums[np.ix_(used, columns)], sizes[np.ix_(used, columns)], draws, seed, level)
        for column, low, high in zip(columns.tolist(), lows.tolist(), highs.tolist(), strict=True):
            count = sizes[:, column].sum()
            mean = sums[:, column].sum() / count
            found[column] = Interval(float(mean), low, high, int(count), int(used.sum()), True)
    return [found[column] for column in range(values.shape[1])]


def _by_clusters(used: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The sets of clusters that columns have values in, each with its columns."""
    patterns, group = np.unique(used.T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield pattern, np.flatnonzero(group.ravel() == number)


def _unclustered(values: np.ndarray, draws: int, seed: int, level: float) -> Interval:
    """The interval of one cluster's pairs, taken one by one; fewer than two pairs have none."""
    values = values[np.isfinite(values)]
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan, len(values), len(values), False)
    lows, highs = _bounds(values[:, None], np.ones((len(values), 1)), draws, seed, level)
    return Interval(mean, float(lows[0]), float(highs[0]), len(values), 1, False)


def _bounds(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of sum(sums) / sum(sizes) over resamples of the rows."""
    rng, count = np.random.default_rng(seed), len(sums)
    means = np.empty((draws, sums.shape[1]))
    step = max(1, CHUNK // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picks = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
        means[start : start + rows] = (times @ sums) / (times @ sizes)
    effective = sizes.sum(axis=0) ** 2 / (sizes**2).sum(axis=0)
    tail = stats.norm.cdf(np.sqrt(effective / (effective - 1)) * stats.t.ppf((1 - level) / 2, effective - 1))
    means.sort(axis=0)
    return _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(ordered: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A quantile of its own of each sorted column, between neighbours as numpy's."""
    at = shares * (len(ordered) - 1)
    below = np.floor(at).astype(int)
    low, high = np.take_along_axis(ordered, np.stack([below, np.minimum(below + 1, len(ordered) - 1)]), axis=0)
    return low + (at - below) * (high - low)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment; NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(order), 0, -1) * p_values[order]))
    return adjusted


def summary(
    records: pd.DataFrame,
    pairs: pd.DataFrame,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each explainer and metric: the mean, its interval, what was flagged, and who is best.

    `metrics` gives each metric's `higher_is_better`; one without has no best. `best` is the first of equals,
    `tied` marks explainers whose paired difference to the best has an interval that holds zero.
    """
    directions = {name: spec.get("higher_is_better") for name, spec in (metrics or {}).items()}
    tables = [_summary(matrix, directions, draws, seed) for matrix in matrices(records, pairs)]
    if not tables:
        raise UserError("there are no records to sum up: evaluate some pairs first")
    return pd.concat(tables, ignore_index=True)


def _summary(matrix: "Matrix", directions: Mapping[str, bool | None], draws: int, seed: int) -> pd.DataFrame:
    table = pd.DataFrame(matrix.columns, columns=["metric", "explainer"])
    table = table.join(pd.DataFrame(clustered_intervals(matrix.entries, matrix.clusters, draws, seed)))
    table["flagged"] = matrix.flagged
    table["higher_is_better"] = table["metric"].map(directions).astype("boolean")
    best = _best(table)
    table["best"] = table.index.isin(best.tolist())
    rivals = np.flatnonzero((best >= 0) & ~table["best"])
    differences = matrix.entries[:, rivals] - matrix.entries[:, best[rivals]]
    against = clustered_intervals(differences, matrix.clusters, draws, seed)
    tied = [row for row, interval in zip(rivals, against, strict=True) if interval.low <= 0 <= interval.high]
    table["tied"] = table.index.isin(tied)
    leading = dict(zip(RUN, matrix.run, strict=True))
    return table.assign(**leading)[[*RUN, "explainer", *table.columns.drop("explainer")]]


def _best(table: pd.DataFrame) -> np.ndarray:
    """For each row the row of the best explainer on its metric, or -1 where none is better than another."""
    best = np.full(len(table), -1)
    rivals = table[(table["explainer"] != FACTS) & table["higher_is_better"].notna() & (table["count"] > 0)]
    for _, group in rivals.groupby("metric", sort=False):
        upward = bool(group["higher_is_better"].iloc[0])
        means = group["mean"].to_numpy() * (1 if upward else -1)
        if means.min() < means.max():
            best[group.index] = group.index[int(means.argmax())]
    return best


def paired_difference(
    records: pd.DataFrame, pairs: pd.DataFrame, to: str = "lafam", draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each explainer minus `to`, over the pairs that neither has flagged.

    The interval resamples classes; the Wilcoxon signed-rank p takes pairs as independent, and is
    adjusted by Holm over the explainers of a metric; `effect` is its matched-pairs rank-biserial correlation.
    """
    rows: list[tuple[Any, ...]] = []
    for matrix in matrices(records, pairs):
        place = {column: number for number, column in enumerate(matrix.columns)}
        rivals = [(m, e) for m, e in matrix.columns if e not in (to, FACTS) and (m, to) in place]
        ours, theirs = [place[rival] for rival in rivals], [place[metric, to] for metric, _ in rivals]
        differences = matrix.entries[:, ours] - matrix.entries[:, theirs]
        intervals = clustered_intervals(differences, matrix.clusters, draws, seed)
        for (metric, explainer), column, found in zip(rivals, differences.T, intervals, strict=True):
            measured = (found.mean, found.low, found.high, found.count, found.clustered, _wilcoxon(column))
            rows.append((*matrix.run, explainer, metric, to, *measured, np.nan, rank_biserial(column)))
    table = pd.DataFrame(rows, columns=DIFFERENCE)
    for _, group in table.groupby([*RUN, "metric"], sort=False):
        table.loc[group.index, "p_holm"] = holm(group["p"].to_numpy())
    return table


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p; no difference anywhere is 1, no pair is NaN."""
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def rank_biserial(differences: np.ndarray) -> float:
    """The effect size beside Wilcoxon's p: 1 where all differences are positive, -1 negative, 0 none or balanced."""
    differences = differences[np.isfinite(differences)]
    unequal = differences[differences != 0]  # as Wilcoxon drops them
    if not len(unequal):
        return 0.0 if len(differences) else float("nan")
    ranks = stats.rankdata(np.abs(unequal))
    return float((ranks * np.sign(unequal)).sum() / ranks.sum())


def reasons(records: pd.DataFrame) -> pd.Series:
    """Why each record is left out of the means; '' for those that count."""
    flag = records["flag"].fillna("").astype(str)
    return flag.mask((flag == "") & ~np.isfinite(records["value"].to_numpy(dtype=float)), NO_REASON)


def area_errors(records: pd.DataFrame) -> np.ndarray:
    """What fewer points cost each curve that was taken in full too; a pair that two kinds hold counts once."""
    errors = records[records["metric"].str.endswith(AREA_ERROR)].drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    return errors.loc[reasons(errors) == "", "value"].to_numpy(dtype=float)


@dataclass(frozen=True)
class Matrix:
    """One (dataset, model, target): a row for each pair, a column for each (metric, explainer), flagged as NaN."""

    run: tuple[str, ...]
    columns: list[tuple[str, str]]
    entries: np.ndarray
    clusters: np.ndarray  # the query's class
    flagged: list[str]  # of each column: 'zero_range 3, constant_map 1'


def matrices(records: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Matrix]:
    """The records as matrices; a pair that two kinds hold counts once."""
    label = pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    once = records.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    if len(unknown := pd.Index(once["query_id"].unique()).difference(label.index)):
        raise UserError(f"the records hold the query {unknown[0]!r}, which pairs.parquet lacks: evaluate the run again")
    for run, frame in once.assign(reason=reasons(once)).groupby(RUN, sort=False, observed=True):
        row, of_row = pd.factorize(pd.MultiIndex.from_frame(frame[PAIR]))
        column, of_column = pd.factorize(pd.MultiIndex.from_frame(frame[["metric", "explainer"]]))
        values = np.full((len(of_row), len(of_column)), np.nan)
        values[row, column] = frame["value"].where(frame["reason"] == "")
        clusters = label.loc[[query for query, _ in of_row]].to_numpy()
        left_out = (frame["reason"] != "").to_numpy()  # few, so that what follows is quick
        why, where = frame["reason"].to_numpy(dtype=object)[left_out], column[left_out]
        flagged = [_counted(why[where == number]) for number in range(len(of_column))]
        yield Matrix(tuple(map(str, run)), list(of_column), values, clusters, flagged)


def _counted(flags: np.ndarray) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(*np.unique(flags, return_counts=True), strict=True))
