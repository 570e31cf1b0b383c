"""Intervals: numbers by hand, coverage by simulation."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from sfam_bench.statistics.intervals import STUDENT_BELOW, STUDENT_FROM, Interval, _quantile, clustered_intervals


def clustered_bootstrap(values: np.ndarray, clusters: np.ndarray, **options: Any) -> Interval:
    return clustered_intervals(np.asarray(values, dtype=float)[:, None], clusters, **options)[0]


def test_the_mean_is_over_pairs_not_over_clusters() -> None:
    interval = clustered_bootstrap(np.array([1.0, 1, 1, 5]), np.array([0, 0, 0, 1]))
    assert interval.mean == 2
    assert interval.low < 1 < 5 < interval.high  # two clusters say little: Student's t of less than one degree
    assert (interval.count, interval.clusters, interval.clustered) == (4, 2, True)


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = clustered_bootstrap(np.full(6, 0.25), np.arange(6) // 2)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_many_clusters_agree_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    interval = clustered_bootstrap(values, np.arange(2000))
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("clusters", [12, 60])
def test_intervals_cover_the_truth(clusters: int) -> None:
    rng, size, repeats = np.random.default_rng(0), 4, 1500
    of_cluster = rng.normal(size=(clusters, repeats)).repeat(size, axis=0)  # each repeat is a column
    values = of_cluster + rng.normal(size=(clusters * size, repeats))
    intervals = clustered_intervals(values, np.arange(clusters).repeat(size), draws=2000)
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("correlated", [False, True])
def test_intervals_of_many_unequal_clusters_cover_the_truth(correlated: bool) -> None:
    rng, repeats = np.random.default_rng(0), 600
    sizes = np.ceil(rng.lognormal(0.5, 1, 1_700)).astype(int)
    assert sizes.sum() ** 2 / (sizes**2).sum() > STUDENT_FROM
    labels = np.arange(len(sizes)).repeat(sizes)
    values = rng.exponential(size=(len(labels), repeats))
    if correlated:
        values += rng.exponential(size=(len(sizes), repeats))[labels]
    intervals = clustered_intervals(values, labels)
    assert 0.93 <= np.mean([interval.low <= 1 + correlated <= interval.high for interval in intervals]) <= 0.97


def test_each_column_has_quantiles_of_its_own() -> None:
    draws = np.random.default_rng(0).normal(size=(101, 3))
    shares = np.array([0.0, 0.123, 1.0])
    expected = [np.quantile(column, share) for column, share in zip(draws.T, shares, strict=True)]
    np.testing.assert_allclose(_quantile(np.sort(draws, axis=0), shares), expected)


def test_a_few_large_classes_count_as_few() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=20)
    even, uneven = np.full(20, 10), np.array([91] * 2 + [1] * 18)
    widths = []
    for sizes in (even, uneven):
        found = clustered_bootstrap(np.repeat(means, sizes), np.repeat(np.arange(20), sizes))
        plain = plain_width(means * sizes, sizes)
        widths.append((found.high - found.low) / plain)
    assert 1 < widths[0] < 1.1  # t of 19 degrees over the normal, and 20 / 19
    assert widths[1] > 1.2


def plain_width(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Width of the plain percentile interval."""
    picks = np.random.default_rng(1).integers(len(sums), size=(10_000, len(sums)))
    low, high = np.quantile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [0.025, 0.975])
    return float(high - low)


def test_pairs_that_share_a_class_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(20).repeat(10)
    values = rng.normal(size=20)[labels] + 0.1 * rng.normal(size=200)
    clustered, alone = clustered_bootstrap(values, labels), clustered_bootstrap(values, np.arange(200))
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_one_class_falls_back_to_pairs_and_says_so() -> None:
    values = np.random.default_rng(0).normal(size=50)
    one = clustered_bootstrap(values, np.zeros(50))
    assert not one.clustered
    each = clustered_bootstrap(values, np.arange(50))
    assert (one.low, one.high) == (each.low, each.high)


def test_too_few_pairs_have_no_interval() -> None:
    assert clustered_bootstrap(np.array([np.nan, 0.5]), np.array([0, 1])).mean == 0.5
    assert np.isnan(clustered_bootstrap(np.array([np.nan, 0.5]), np.array([0, 1])).low)
    none = clustered_bootstrap(np.array([np.nan]), np.array([0]))
    assert np.isnan(none.mean)
    assert none.count == 0


def test_columns_do_not_depend_on_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(30, 3)), np.arange(30) // 3
    values[:9, 1] = np.nan  # three clusters less
    together = clustered_intervals(values, labels, draws=500)
    for column in range(3):
        assert clustered_bootstrap(values[:, column], labels, draws=500) == together[column]


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_intervals_of_few_clusters_cover_the_truth(clusters: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(clusters, 2000)).repeat(4, axis=0) + rng.normal(size=(4 * clusters, 2000))
    found = clustered_intervals(values, np.arange(clusters).repeat(4))
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97


def test_few_equal_clusters_have_students_interval() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.6, 0.4])
    assert len(values) < STUDENT_BELOW
    found = clustered_bootstrap(values.repeat(3), np.arange(5).repeat(3))
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_hits_of_independent_pairs_have_wilsons_interval() -> None:
    values = np.r_[np.ones(90), np.zeros(10)]
    found = clustered_bootstrap(values, np.arange(100), shares=True)
    # Wilson's by hand, with the size of the design n - 1 and Student's quantile instead of the normal's
    n, z, p = 99, stats.t.ppf(0.975, 99), 0.9
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), rel=1e-6
    )


@pytest.mark.parametrize(("value", "bound"), [(1.0, "low"), (0.0, "high")])
def test_eight_hits_of_eight_are_not_certain(value: float, bound: str) -> None:
    found = clustered_bootstrap(np.full(8, value), np.arange(8), shares=True)
    squared = stats.t.ppf(0.975, 7) ** 2
    width = squared / (8 + squared)  # Wilson's bound where all agree
    assert abs(getattr(found, bound) - value) == pytest.approx(width)
    assert getattr(found, "high" if bound == "low" else "low") == pytest.approx(value)


@pytest.mark.parametrize(("clusters", "correlation"), [(6, 0.3), (15, 0.0), (15, 0.7), (50, 0.3)])
def test_intervals_of_hits_cover_the_truth(clusters: int, correlation: float) -> None:
    rng, truth, size, repeats = np.random.default_rng(0), 0.8, 6, 2000
    spread = 1 / correlation - 1 if correlation else np.inf
    chance = np.full((clusters, repeats), truth)
    if correlation:
        chance = rng.beta(truth * spread, (1 - truth) * spread, chance.shape)
    values = (rng.random((clusters * size, repeats)) < chance.repeat(size, axis=0)).astype(float)
    found = clustered_intervals(values, np.arange(clusters).repeat(size), shares=True)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92


def test_a_dominating_cluster_gives_a_finite_interval() -> None:
    values, labels = np.r_[np.ones(999), 0], np.r_[np.zeros(999), 1]
    for shares in (True, False):
        found = clustered_bootstrap(values, labels, shares=shares)
        assert np.isfinite([found.low, found.high]).all()
        assert found.low < 0.7
