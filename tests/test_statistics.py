"""Numbers by hand, coverage by simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfam_bench.errors import UserError
from sfam_bench.statistics import (
    _quantile,
    area_errors,
    clustered_bootstrap,
    clustered_intervals,
    holm,
    paired_difference,
    rank_biserial,
    summary,
)

METRICS = {"deletion": {"higher_is_better": False}, "game": {"higher_is_better": True}, "s_full": {}}


def frame(values: dict[tuple[str, str], list[float]], flags: dict[tuple[str, str, int], str] | None = None):
    """Records of `values[explainer, metric]`, one value for each of the queries q0, q1, ..."""
    run = {"dataset": "cub", "model": "lite0", "target": "similarity", "reference_id": "r"}
    rows = []
    for (explainer, metric), column in values.items():
        for number, value in enumerate(column):
            flag = (flags or {}).get((explainer, metric, number), "")
            here = {"explainer": explainer, "metric": metric, "query_id": f"q{number}"}
            rows.append({**run, **here, "value": np.nan if flag else value, "flag": flag})
    return pd.DataFrame(rows)


def pairs(labels: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"query_id": [f"q{n}" for n in range(len(labels))], "reference_id": "r", "query_label": labels})


def row(table: pd.DataFrame, explainer: str, metric: str) -> pd.Series:
    (found,) = (
        series for _, series in table.iterrows() if (series["explainer"], series["metric"]) == (explainer, metric)
    )
    return found


def test_the_mean_is_over_pairs_not_over_clusters() -> None:
    interval = clustered_bootstrap(np.array([1.0, 1, 1, 5]), np.array([0, 0, 0, 1]))
    assert interval.mean == 2
    assert (interval.low, interval.high) == (1, 5)  # two clusters: only three different resamples
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


def test_flagged_pairs_are_left_out_and_counted() -> None:
    flags = {("sfam", "game", 0): "empty_mask", ("sfam", "game", 1): "zero_range", ("sfam", "game", 2): "zero_range"}
    records = frame({("sfam", "game"): [9, 9, 9, 0.5, 0.7, np.inf]}, flags)
    found = row(summary(records, pairs([0, 0, 1, 1, 2, 2]), METRICS), "sfam", "game")
    assert found["mean"] == pytest.approx(0.6)
    assert found["count"] == 2
    assert found["flagged"] == "empty_mask 1, no_reason 1, zero_range 2"


def test_the_best_follows_the_direction_and_facts_of_the_pair_never_win() -> None:
    values = {("sfam", "deletion"): [0.2, 0.3, 0.2, 0.3], ("lafam", "deletion"): [0.9, 0.8, 0.9, 0.8]}
    values |= {("sfam", "game"): [0.2, 0.3, 0.2, 0.3], ("lafam", "game"): [0.9, 0.8, 0.9, 0.8]}
    values |= {("pair", "s_full"): [1.0] * 4, ("pair", "game"): [1.0] * 4}
    table = summary(frame(values), pairs([0, 1, 2, 3]), METRICS)
    assert set(table.loc[table["best"], ["explainer", "metric"]].itertuples(index=False, name=None)) == {
        ("sfam", "deletion"),
        ("lafam", "game"),
    }
    assert not table["tied"].any()
    assert table["higher_is_better"].isna().tolist() == (table["metric"] == "s_full").tolist()


def test_ties_are_judged_by_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=40)  # wide intervals that overlap, yet one is always a little better
    shifted, noisy = spread - 0.1, spread + 0.1 * rng.normal(size=40) - 0.001
    values = {("a", "game"): list(spread), ("b", "game"): list(shifted), ("c", "game"): list(noisy)}
    table = summary(frame(values), pairs(list(range(40))), METRICS).set_index("explainer")
    assert table["best"].tolist() == [True, False, False] or table["best"].tolist() == [False, False, True]
    assert not table.loc["b", "tied"]
    assert table.loc[["a", "c"], "tied"].sum() == 1
    assert table.loc["b", "high"] > table.loc["a", "low"]


def test_a_pair_of_two_kinds_counts_once() -> None:
    records = frame({("sfam", "game"): [0.0, 1.0]})
    twice = pd.concat([records, records.iloc[:1]])
    assert row(summary(twice, pairs([0, 1]), METRICS), "sfam", "game")["mean"] == 0.5


def test_the_difference_is_over_pairs_that_neither_flagged() -> None:
    values = {("sfam", "game"): [1.0, 2, 3, 4], ("lafam", "game"): [0.0, 0, 1, 9]}
    records = frame(values, {("lafam", "game", 3): "constant_map"})
    (found,) = paired_difference(records, pairs([0, 1, 2, 3])).to_dict("records")
    assert found["difference"] == pytest.approx(5 / 3)
    assert found["count"] == 3
    assert found["p"] == pytest.approx(stats.wilcoxon([1, 2, 2]).pvalue)
    assert found["p_holm"] == found["p"]
    assert found["effect"] == 1  # each is greater


def test_the_effect_size_by_hand() -> None:
    assert rank_biserial(np.array([0, 0, 1.0, -2, 3, np.nan])) == pytest.approx((1 - 2 + 3) / 6)
    assert rank_biserial(np.array([1.0, -1, 5])) == pytest.approx((1.5 - 1.5 + 3) / 6)
    assert rank_biserial(np.zeros(3)) == 0
    assert np.isnan(rank_biserial(np.array([np.nan])))


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12))
def test_the_effect_size_is_of_wilcoxons_sums(values: list[int]) -> None:
    differences = np.array(values, dtype=float)
    assert rank_biserial(-differences) == pytest.approx(-rank_biserial(differences))
    if count := np.count_nonzero(differences):
        less = stats.wilcoxon(differences).statistic  # the smaller sum of ranks
        assert abs(rank_biserial(differences)) == pytest.approx(1 - 4 * less / (count * (count + 1)))


def test_no_difference_at_all_has_p_of_one() -> None:
    records = frame({("sfam", "game"): [0.1, 0.2], ("lafam", "game"): [0.1, 0.2]})
    (found,) = paired_difference(records, pairs([0, 1])).to_dict("records")
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_without_the_control_there_is_no_difference() -> None:
    assert paired_difference(frame({("sfam", "game"): [0.1, 0.2]}), pairs([0, 1])).empty


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    adjusted = holm(np.array([0.02, np.nan, 0.03]))
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])


def test_holm_is_over_the_explainers_of_one_metric() -> None:
    rng = np.random.default_rng(0)
    names = [(explainer, metric) for explainer in ("a", "b", "lafam") for metric in ("game", "deletion")]
    records = frame({name: list(rng.normal(size=12)) for name in names})
    for _, group in paired_difference(records, pairs(list(range(12)))).groupby("metric"):
        assert group["p_holm"].to_numpy() == pytest.approx(holm(group["p"].to_numpy()))


def test_area_errors_are_of_all_explainers_and_walks_and_of_nothing_else() -> None:
    values = {("sfam", "deletion_area_error"): [0.1, 0.2, 9], ("lafam", "insertion_area_error"): [0.3]}
    records = frame(values | {("sfam", "deletion"): [5, 6]}, {("sfam", "deletion_area_error", 2): "constant_map"})
    twice = pd.concat([records, records.iloc[:1]])
    assert area_errors(twice).tolist() == [0.1, 0.2, 0.3]
    assert area_errors(records[records["metric"] == "deletion"]).size == 0
    assert area_errors(records[:0]).size == 0


def test_a_query_without_a_class_is_named() -> None:
    with pytest.raises(UserError, match="'q2'"):
        summary(frame({("sfam", "game"): [0.1, 0.2, 0.3]}), pairs([0, 1]), METRICS)
