"""Comparisons of methods with the best one and with each other, by sign flips of whole classes.

Under the null hypothesis the difference of two methods, summed over the pairs of a class, is as likely to be positive
as negative. Flipping the signs of all differences of a class together gives the null distribution of any statistic and
preserves the correlations among pairs of a class and among methods.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # whose stats are imported when first used: most runs need none, and they take most of a second

from sfam_bench.statistics.intervals import sum_by_cluster

FEW_CLASSES = 6  # with fewer, no sign pattern is rarer than 5 %, so that no difference can be significant
LEVEL = 0.05
SHARED_ENOUGH = 0.5  # share of the pairs; a method with fewer is not compared, as the others would lose theirs
ROUNDING = 1e-9
HELD = 1 << 22  # random signs as floats at a time
NORMAL_FROM = 500  # effective classes from which totals under random signs are normal (benchmarks/marking.py)


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_with_best` for one metric, over the pairs that all `compared` methods have.

    `p` of each method is the adjusted probability of falling as far behind the best if methods are equal; NaN if it is
    not compared. `best` is the first of equal ones, -1 if there is none: fewer than FEW_CLASSES classes, a single
    method, or no difference.
    """

    best: int
    p: np.ndarray
    compared: np.ndarray
    pairs: int
    classes: int

    @property
    def tied(self) -> np.ndarray:
        """Which methods are not significantly worse than the best."""
        tied = self.compared & ~(self.p <= LEVEL)
        tied[self.best] = False
        return tied & (self.best >= 0)


def compare_with_best(values: np.ndarray, clusters: np.ndarray, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare all methods with the best of them; `values` (pairs, methods), greater is better, NaN where flagged.

    Multiple comparisons with the best (Hsu 1981) by the step-down max-T of Romano and Wolf (2005): the studentised
    difference of each method to the best one, with its distribution by sign flips of classes. The probability that any
    method as good as the best is not marked as tied is at most LEVEL.
    """
    counts = np.isfinite(values).sum(axis=0)
    compared = (counts > 0) & (counts >= SHARED_ENOUGH * counts.max(initial=0))
    shared = np.isfinite(values[:, compared]).all(axis=1)
    sums, _ = sum_by_cluster(values[shared][:, compared], np.asarray(clusters)[shared])
    (classes, methods), totals, pairs = sums.shape, sums.sum(axis=0), int(shared.sum())
    p = np.full(values.shape[1], np.nan)
    if classes < FEW_CLASSES or methods < 2 or np.ptp(totals) <= ROUNDING * np.abs(sums).sum(axis=0).max():
        return Comparison(-1, p, compared, pairs, classes)
    p[compared] = _p_behind_best(sums, draws, seed)
    return Comparison(int(np.flatnonzero(compared)[totals.argmax()]), p, compared, pairs, classes)


@lru_cache(maxsize=2)
def sign_flips(classes: int, draws: int, seed: int = 0) -> np.ndarray:
    """Signs (flips, classes) as int8, first all positive: all patterns up to a common sign, or `draws` random ones."""
    if 2 ** (classes - 1) <= draws:
        patterns = np.arange(2 ** (classes - 1))[:, None] >> np.arange(classes) & 1
        return (1 - 2 * patterns).astype(np.int8)
    rng, signs = np.random.default_rng(seed), np.empty((draws, classes), np.int8)
    for rows in _row_blocks(draws, classes):
        signs[rows] = 1 - 2 * rng.integers(2, size=(rows.stop - rows.start, classes))
    signs[0] = 1
    return signs


def _row_blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, HELD // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _flipped_totals(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The totals of each column of `values` (classes, columns) under random signs, (draws, columns), first as they are.

    With many classes they are normal with the covariance of the values, and drawn as such.
    """
    if _effective_classes(values).min(initial=np.inf) >= NORMAL_FROM:
        weights, axes = np.linalg.eigh(values.T @ values)
        root = axes * np.sqrt(weights.clip(0)) @ axes.T
        found = np.random.default_rng(seed).standard_normal((draws, values.shape[1])) @ root
        found[0] = values.sum(axis=0)
        return found
    flips = sign_flips(len(values), draws, seed)
    found = np.empty((len(flips), values.shape[1]))
    for rows in _row_blocks(*flips.shape):
        found[rows] = flips[rows].astype(float) @ values
    return found


def _effective_classes(sums: np.ndarray) -> np.ndarray:
    """How many classes of equal weight have totals that are as normal; infinity for zeros."""
    squares = sums**2
    fourth = (squares**2).sum(axis=0)
    return np.divide(squares.sum(axis=0) ** 2, fourth, out=np.full(fourth.shape, np.inf), where=fourth > 0)


def _p_behind_best(sums: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Adjusted p that each method is among the best, from its sums by class."""
    # sums of differences are differences of sums: one set of totals does for all pairs of methods
    totals = np.ascontiguousarray(_flipped_totals(sums - sums.mean(axis=1, keepdims=True), draws, seed).T)
    count = totals.shape[1]
    behind = np.empty(
        (len(totals), 2 * count)
    )  # each pattern of signs and its opposite; patterns are adjacent for speed
    for method in range(len(totals)):
        norm = np.sqrt(((sums - sums[:, [method]]) ** 2).sum(axis=0))
        ahead = (totals - totals[method]) * np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)[:, None]
        behind[method, :count], behind[method, count:] = ahead.max(axis=0), -ahead.min(axis=0)
    order = np.argsort(-behind[:, 0])
    furthest = np.maximum.accumulate(behind[order[::-1]], axis=0)[::-1]  # over a method and those less far behind
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((furthest >= behind[order, :1] - ROUNDING).mean(axis=1))
    return p


def _scale(sums: np.ndarray) -> np.ndarray:
    """Divide sums by class by their norm, so that their total is monotone in the clustered t statistic."""
    norm = np.sqrt((sums**2).sum(axis=0))
    return np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0)


def sign_flip_p(differences: np.ndarray, clusters: np.ndarray, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p that the mean of each column (pairs, columns) is zero, by sign flips of its sums over classes.

    NaN values are ignored; p is NaN if there are no values or all are of one class.
    """
    sums, sizes = sum_by_cluster(differences, clusters)
    p, used = np.full(differences.shape[1], np.nan), (sizes > 0).sum(axis=0)
    scaled = _scale(sums)
    normal = (_effective_classes(sums) >= NORMAL_FROM) & (used >= NORMAL_FROM)
    p[normal] = 2 * scipy.stats.norm.sf(np.abs(scaled[:, normal].sum(axis=0)))
    for classes in np.unique(used[(used > 1) & ~normal]):
        columns = np.flatnonzero((used == classes) & ~normal)
        own = np.stack([scaled[sizes[:, column] > 0, column] for column in columns], axis=1)
        totals = np.abs(_flipped_totals(own, draws, seed))
        p[columns] = (totals >= totals[0] - ROUNDING).mean(axis=0)
    return p


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment; NaN stays NaN and is not counted as a test."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(order), 0, -1) * p_values[order]))
    return adjusted


def rank_biserial(differences: np.ndarray) -> float:
    """The matched-pairs rank-biserial effect size: 1 if all differences are positive, -1 if negative, 0 if balanced."""
    differences = differences[np.isfinite(differences)]
    unequal = differences[differences != 0]  # as in Wilcoxon's test
    if not len(unequal):
        return 0.0 if len(differences) else float("nan")
    ranks = scipy.stats.rankdata(np.abs(unequal))
    return float((ranks * np.sign(unequal)).sum() / ranks.sum())
