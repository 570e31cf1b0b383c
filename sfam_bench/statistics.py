"""Means over pairs with intervals that know of classes, and paired comparisons of explainers."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sfam_bench.errors import UserError

RUN = ["dataset", "model", "target"]
PAIR = ["query_id", "reference_id"]
FACTS = "pair"  # the explainer under which facts of the pair itself are recorded
NO_REASON = "no_reason"  # the flag of a value that is not finite although nothing was flagged
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

    The percentiles are widened for few clusters (the expanded percentile interval of Hesterberg 2015).
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
    if len(values) < 2:
        return Interval(
            float(values.mean()) if len(values) else np.nan, np.nan, np.nan, len(values), len(values), False
        )
    lows, highs = _bounds(values[:, None], np.ones((len(values), 1)), draws, seed, level)
    return Interval(float(values.mean()), float(lows[0]), float(highs[0]), len(values), 1, False)


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
    tail = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - level) / 2, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment; NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    adjusted = np.full(p_values.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return adjusted


def summary(
    records: pd.DataFrame,
    pairs: pd.DataFrame,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each explainer and metric: the mean, its interval, what was flagged, and who is best.

    `tied` marks explainers whose paired difference to the best has an interval that holds zero.
    """
    rows = []
    for keys, frame in _runs(records):
        wide, clusters = _wide(frame), _clusters(frame, pairs)
        flagged = _flagged_texts(frame)
        intervals = clustered_intervals(wide.to_numpy(), clusters.loc[wide.index].to_numpy(), draws, seed)
        for (metric, explainer), interval in zip(wide.columns, intervals, strict=True):
            higher = (metrics or {}).get(metric, {}).get("higher_is_better")
            rows.append((*keys, explainer, metric, *astuple(interval), flagged.get((metric, explainer), ""), higher))
    fields = ["mean", "low", "high", "count", "clusters", "clustered"]
    table = pd.DataFrame(rows, columns=[*RUN, "explainer", "metric", *fields, "flagged", "higher_is_better"])
    table["higher_is_better"] = table["higher_is_better"].astype("boolean")
    return _mark_best(table, records, pairs, draws, seed)


def _mark_best(table: pd.DataFrame, records: pd.DataFrame, pairs: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Add `best` (the first of equals) and `tied` among the explainers of each metric that has a direction."""
    table = table.assign(best=False, tied=False)
    runs = dict(_runs(records))
    rivals = table[(table["explainer"] != FACTS) & table["higher_is_better"].notna() & (table["count"] > 0)]
    for keys, of_run in rivals.groupby(RUN, sort=False):
        frame = runs[keys]
        wide, clusters = _wide(frame), _clusters(frame, pairs)
        against: list[tuple[Any, np.ndarray]] = []
        for metric, group in of_run.groupby("metric", sort=False):
            best = group["mean"].idxmax() if group["higher_is_better"].iloc[0] else group["mean"].idxmin()
            table.loc[best, "best"] = True
            of_best = wide[metric, table.loc[best, "explainer"]].to_numpy()
            for row in group.index.drop(best):
                against.append((row, wide[metric, table.loc[row, "explainer"]].to_numpy() - of_best))
        if against:
            differences = np.stack([difference for _, difference in against], axis=1)
            intervals = clustered_intervals(differences, clusters.loc[wide.index].to_numpy(), draws, seed)
            for (row, _), interval in zip(against, intervals, strict=True):
                table.loc[row, "tied"] = bool(interval.low <= 0 <= interval.high)
    return table


def paired_difference(
    records: pd.DataFrame, pairs: pd.DataFrame, to: str = "lafam", draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Each explainer minus `to`, over the pairs that neither has flagged.

    The interval resamples classes; the Wilcoxon signed-rank p takes pairs as independent, and is
    adjusted by Holm over the explainers of a metric.
    """
    columns = [*RUN, "explainer", "metric", "to", "difference", "low", "high", "count", "clustered", "p", "p_holm"]
    rows = []
    for keys, frame in _runs(records[records["explainer"] != FACTS]):
        wide, clusters = _wide(frame), _clusters(frame, pairs)
        names = [(m, e) for m, e in wide.columns if e != to and (m, to) in wide.columns]
        if not names:
            continue
        values = np.stack([(wide[name] - wide[name[0], to]).to_numpy() for name in names], axis=1)
        intervals = clustered_intervals(values, clusters.loc[wide.index].to_numpy(), draws, seed)
        for (metric, explainer), column, found in zip(names, values.T, intervals, strict=True):
            measured = (found.mean, found.low, found.high, found.count, found.clustered, _wilcoxon(column))
            rows.append((*keys, explainer, metric, to, *measured, np.nan))
    table = pd.DataFrame(rows, columns=columns)
    for _, group in table.groupby([*RUN, "metric"], sort=False):
        table.loc[group.index, "p_holm"] = holm(group["p"].to_numpy())
    return table


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p; no difference anywhere is 1, no pair is NaN."""
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return np.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def reasons(records: pd.DataFrame) -> pd.Series:
    """Why each record is left out of the means; '' for those that count."""
    flag = records["flag"].fillna("").astype(str)
    return flag.mask((flag == "") & ~np.isfinite(records["value"].to_numpy(dtype=float)), NO_REASON)


def _runs(records: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """The records of each (dataset, model, target), each pair once even if two kinds of pairs hold it."""
    once = records.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    for keys, frame in once.groupby(RUN, sort=False, observed=True):
        yield keys, frame  # type: ignore[misc]  # a list of three keys gives three


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Values, a row for each pair and a column for each (metric, explainer) in order of appearance; flagged is NaN."""
    kept = frame.assign(value=frame["value"].where(reasons(frame) == ""))
    wide = kept.pivot(index=PAIR, columns=["metric", "explainer"], values="value")
    return wide.reindex(columns=pd.MultiIndex.from_frame(frame[["metric", "explainer"]].drop_duplicates()))


def _clusters(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The query's class of each pair of the frame."""
    label = pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    index = pd.MultiIndex.from_frame(frame[PAIR].drop_duplicates())
    queries = index.get_level_values("query_id")
    if len(unknown := queries.difference(label.index)):
        raise UserError(f"the records hold the query {unknown[0]!r}, which pairs.parquet lacks: evaluate the run again")
    return pd.Series(label.loc[queries].to_numpy(), index=index)


def _flagged_texts(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    """'zero_range 3, constant_map 1' for each (metric, explainer) with flagged records."""
    why = frame.assign(reason=reasons(frame))
    counts = why[why["reason"] != ""].groupby(["metric", "explainer"], observed=True)["reason"].value_counts()
    texts: dict[tuple[str, str], str] = {}
    for (metric, explainer, reason), count in counts.items():  # type: ignore[misc]
        before = texts.get((metric, explainer))
        texts[metric, explainer] = f"{before}, {reason} {count}" if before else f"{reason} {count}"
    return texts
