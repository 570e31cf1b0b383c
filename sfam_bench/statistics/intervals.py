"""Confidence intervals of means over pairs, where classes were sampled rather than pairs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

CHUNK = 1 << 22  # resampled cluster counts held at a time
STUDENT_BELOW = 8  # clusters below which resampling is too narrow (benchmarks/coverage.py)
STUDENT_FROM = 500  # effective clusters from which a mean is normal, and resampling takes minutes for the same bounds


@dataclass(frozen=True)
class Interval:
    """A mean over pairs and its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    clusters: int
    clustered: bool  # False: a single cluster, whose pairs are taken as independent


def clustered_intervals(
    values: np.ndarray,
    clusters: np.ndarray,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    shares: bool | np.ndarray = False,
    student: bool = False,
) -> list[Interval]:
    """The mean of each column of `values` (pairs, columns) with an interval over clusters; NaN values are ignored.

    Three forms, chosen by simulation (benchmarks/coverage.py). Columns that are `shares` (values 0 and 1): Wilson's
    interval with the effective sample size of the design (Korn and Graubard 1998). Fewer than STUDENT_BELOW clusters,
    or effectively STUDENT_FROM or more: Student's t on the clustered standard error. Otherwise percentiles of resampled
    clusters, widened for few clusters (expanded percentile interval, Hesterberg 2015). Degrees of freedom use Kish's
    effective number of clusters, which is smaller for unequal sizes. A single cluster: its pairs are taken as
    independent, and `clustered` is False. `student` takes Student's t for all columns, since the tails of a level near
    1 are beyond what can be resampled.
    """
    sums, sizes = sum_by_cluster(values, clusters)
    share = np.broadcast_to(shares, values.shape[1:])
    found: dict[int, Interval] = {}
    used = sizes > 0
    clusters_of = used.sum(axis=0)
    for count in np.unique(clusters_of).tolist():  # of columns with as many clusters, one resampling serves all
        columns = np.flatnonzero(clusters_of == count)
        if count < 2:
            for column in columns.tolist():
                found[column] = _interval_of_pairs(values[:, column], bool(share[column]), draws, seed, level, student)
            continue
        of, sized = (np.stack([each[used[:, at], at] for at in columns], axis=1) for each in (sums, sizes))
        lows, highs = _bounds(of, sized, share[columns], draws, seed, level, student)
        for column, low, high in zip(columns.tolist(), lows.tolist(), highs.tolist(), strict=True):
            pairs = sizes[:, column].sum()
            found[column] = Interval(float(sums[:, column].sum() / pairs), low, high, int(pairs), count, True)
    return [found[column] for column in range(values.shape[1])]


def sum_by_cluster(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the finite values of each column, (clusters, columns); clusters in order of appearance."""
    codes, names = pd.factorize(np.asarray(clusters))
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, codes, np.where(np.isfinite(values), values, 0.0))
    np.add.at(counts, codes, np.isfinite(values))
    return sums, counts


def _interval_of_pairs(values: np.ndarray, share: bool, draws: int, seed: int, level: float, student: bool) -> Interval:
    """The interval of one cluster's pairs as independent; NaN for fewer than two pairs."""
    values = values[np.isfinite(values)]
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan, len(values), len(values), False)
    shares, sizes = np.array([share]), np.ones((len(values), 1))
    (low,), (high,) = _bounds(values[:, None], sizes, shares, draws, seed, level, student)
    return Interval(mean, float(low), float(high), len(values), 1, False)


def _bounds(
    sums: np.ndarray, sizes: np.ndarray, shares: np.ndarray, draws: int, seed: int, level: float, always: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of sum(sums) / sum(sizes) over sampled rows (clusters), by the form for each column."""
    bounds = np.empty((2, sums.shape[1]))
    if shares.any():
        bounds[:, shares] = _wilson(sums[:, shares], sizes[:, shares], level)
    student = ~shares & (always | (len(sums) < STUDENT_BELOW) | (_effective(sizes) >= STUDENT_FROM))
    if student.any():
        bounds[:, student] = _student(sums[:, student], sizes[:, student], level)
    if (others := ~shares & ~student).any():
        bounds[:, others] = _percentiles(sums[:, others], sizes[:, others], draws, seed, level)
    return bounds[0], bounds[1]


def _variance(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clustered variance of the mean with leverage-corrected residuals (CR2; Bell and McCaffrey 2002)."""
    total = sizes.sum(axis=0)
    residuals = (sums - sizes * (sums.sum(axis=0) / total)) / np.sqrt(1 - sizes / total)
    return np.asarray((residuals**2).sum(axis=0) / total**2)


def _effective(sizes: np.ndarray) -> np.ndarray:
    """Kish's effective number of clusters."""
    return np.asarray(sizes.sum(axis=0) ** 2 / (sizes**2).sum(axis=0))


def _student(sums: np.ndarray, sizes: np.ndarray, level: float) -> np.ndarray:
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    half = scipy.stats.t.ppf((1 + level) / 2, np.maximum(_effective(sizes) - 1, 1)) * np.sqrt(_variance(sums, sizes))
    return np.stack([mean - half, mean + half])


def _wilson(sums: np.ndarray, sizes: np.ndarray, level: float) -> np.ndarray:
    """Wilson's interval; if all values are equal, the clusters are the sample, as their correlation is unknown."""
    total, effective = sizes.sum(axis=0), _effective(sizes)
    share, variance = sums.sum(axis=0) / total, _variance(sums, sizes)
    design = np.divide(share * (1 - share), variance, out=effective.copy(), where=variance > 1e-15)
    size = np.minimum(design, total)
    squared = scipy.stats.t.ppf((1 + level) / 2, np.maximum(effective - 1, 1)) ** 2 / size
    middle, half = share + squared / 2, np.sqrt(squared * share * (1 - share) + squared**2 / 4)
    return np.stack([middle - half, middle + half]).clip(0, 1 + squared) / (1 + squared)


def _percentiles(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int, level: float) -> np.ndarray:
    rng, count = np.random.default_rng(seed), len(sums)
    means = np.empty((draws, sums.shape[1]))
    step = max(1, CHUNK // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picks = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
        means[start : start + rows] = (times @ sums) / (times @ sizes)
    freedom = np.maximum(_effective(sizes) - 1, 1)
    tail = scipy.stats.norm.cdf(np.sqrt((freedom + 1) / freedom) * scipy.stats.t.ppf((1 - level) / 2, freedom))
    means.sort(axis=0)
    return np.stack([_quantile(means, tail), _quantile(means, 1 - tail)])


def _quantile(ordered: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The quantile `shares` of each sorted column, interpolated linearly as in numpy."""
    at = shares * (len(ordered) - 1)
    below = np.floor(at).astype(int)
    low, high = np.take_along_axis(ordered, np.stack([below, np.minimum(below + 1, len(ordered) - 1)]), axis=0)
    return np.asarray(low + (at - below) * (high - low))
