"""Means and paired differences of records: numbers by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sfam_bench.core.errors import UserError
from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics import area_errors, paired_difference, plain_means, summarise

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


def test_flagged_pairs_are_left_out_and_counted() -> None:
    flags = {("sfam", "game", 0): "empty_mask", ("sfam", "game", 1): "zero_range", ("sfam", "game", 2): "zero_range"}
    records = frame({("sfam", "game"): [9, 9, 9, 0.5, 0.7, np.inf]}, flags)
    found = row(summarise(Matrix.of(records, pairs([0, 0, 1, 1, 2, 2])), METRICS), "sfam", "game")
    assert found["mean"] == pytest.approx(0.6)
    assert found["count"] == 2
    assert found["flagged"] == "empty_mask 1, no_reason 1, zero_range 2"


def test_the_best_follows_the_direction_and_facts_of_the_pair_never_win() -> None:
    few, many = [0.2, 0.3] * 4, [0.9, 0.8] * 4
    values = {("sfam", "deletion"): few, ("lafam", "deletion"): many, ("sfam", "game"): few, ("lafam", "game"): many}
    values |= {("pair", "s_full"): [1.0] * 8, ("pair", "game"): [1.0] * 8}
    table = summarise(Matrix.of(frame(values), pairs([*range(8)])), METRICS)
    assert set(table.loc[table["best"], ["explainer", "metric"]].itertuples(index=False, name=None)) == {
        ("sfam", "deletion"),
        ("lafam", "game"),
    }
    assert not table["tied"].any()
    assert table["higher_is_better"].isna().tolist() == (table["metric"] == "s_full").tolist()


def test_ties_are_judged_over_the_same_pairs() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=40)  # wide intervals that overlap, yet one is always a little better
    shifted, noisy = spread - 0.1, spread + 0.1 * rng.normal(size=40) - 0.001
    values = {("a", "game"): list(spread), ("b", "game"): list(shifted), ("c", "game"): list(noisy)}
    table = summarise(Matrix.of(frame(values), pairs(list(range(40)))), METRICS).set_index("explainer")
    assert table["best"].tolist() == [True, False, False] or table["best"].tolist() == [False, False, True]
    assert not table.loc["b", "tied"]
    assert table.loc[["a", "c"], "tied"].sum() == 1
    assert table.loc["b", "high"] > table.loc["a", "low"]


def test_a_pair_of_two_kinds_counts_once() -> None:
    records = frame({("sfam", "game"): [0.0, 1.0]})
    twice, two_kinds = pd.concat([records, records.iloc[:1]]), pairs([0, 1]).iloc[[0, 0, 1]]
    assert row(summarise(Matrix.of(twice, two_kinds), METRICS), "sfam", "game")["mean"] == 0.5


def test_the_difference_is_over_pairs_that_neither_flagged() -> None:
    values = {("sfam", "game"): [1.0, 2, 3, 4], ("lafam", "game"): [0.0, 0, 1, 9]}
    records = frame(values, {("lafam", "game", 3): "constant_map"})
    (found,) = paired_difference(Matrix.of(records, pairs([0, 1, 2, 3]))).to_dict("records")
    assert found["difference"] == pytest.approx(5 / 3)
    assert found["count"] == 3
    assert found["clusters"] == 3
    assert found["p"] == 0.25  # one pattern of signs of four
    assert found["effect"] == 1  # each is greater


def test_no_difference_at_all_has_p_of_one() -> None:
    records = frame({("sfam", "game"): [0.1, 0.2], ("lafam", "game"): [0.1, 0.2]})
    (found,) = paired_difference(Matrix.of(records, pairs([0, 1]))).to_dict("records")
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_without_the_control_there_is_no_difference() -> None:
    assert paired_difference(Matrix.of(frame({("sfam", "game"): [0.1, 0.2]}), pairs([0, 1]))).empty


def test_corrected_intervals_are_students_with_bonferronis_correction() -> None:
    rng, classes = np.random.default_rng(0), 12
    values = {(name, "game"): rng.normal(size=classes).tolist() for name in ("sfam", "gam", "fam", "lafam")}
    found = paired_difference(Matrix.of(frame(values), pairs([*range(classes)])), corrected=True).set_index("explainer")
    assert [*found.index] == ["sfam", "gam", "fam"]
    for name, one in found.iterrows():
        differences = np.subtract(values[name, "game"], values["lafam", "game"])
        half = stats.t.ppf(1 - 0.05 / 3 / 2, classes - 1) * differences.std(ddof=1) / classes**0.5
        np.testing.assert_allclose([one["low"], one["high"]], differences.mean() + half * np.array([-1, 1]))


def test_area_errors_are_of_all_explainers_and_walks() -> None:
    values = {("sfam", "deletion_area_error"): [0.1, 0.2, 9], ("lafam", "insertion_area_error"): [0.3]}
    records = frame(values, {("sfam", "deletion_area_error", 2): "constant_map"})
    twice = pd.concat([records, records.iloc[:1]])
    assert area_errors(Matrix.of(twice, pairs([0, 1, 2]).iloc[[0, 0, 1, 2]])).tolist() == [0.1, 0.2, 0.3]
    assert area_errors(Matrix.of(records[:0], pairs([0]))).size == 0


def test_a_query_without_a_class_is_named() -> None:
    with pytest.raises(UserError, match="q2 with r, which is not a pair"):
        summarise(Matrix.of(frame({("sfam", "game"): [0.1, 0.2, 0.3]}), pairs([0, 1])), METRICS)


def test_fewer_than_six_classes_have_no_marks() -> None:
    records = frame({("a", "game"): [0.1, 0.2, 0.1, 0.2], ("b", "game"): [0.9, 0.8, 0.9, 0.8]})
    table = summarise(Matrix.of(records, pairs([0, 1, 2, 3])), METRICS)
    assert not table[["best", "tied"]].to_numpy().any()
    assert table["compared"].all()
    assert table["shared_classes"].tolist() == [4, 4]


def test_marks_rest_on_the_pairs_that_all_have() -> None:
    values = {("a", "game"): [0.9] * 6 + [0.0] * 6, ("b", "game"): [0.95, 0.94, 0.95, 0.94, 0.95, 0.94] + [0.3] * 6}
    flags = {("a", "game", number): "constant_map" for number in range(6, 12)}
    table = summarise(Matrix.of(frame(values, flags), pairs([*range(6), *range(6)])), METRICS).set_index("explainer")
    assert table["mean"].to_dict() == pytest.approx({"a": 0.9, "b": 0.6225})
    assert table["best"].to_dict() == {"a": False, "b": True}
    assert table["shared"].tolist() == [6, 6]


def test_a_metric_of_hits_has_wilsons_interval_and_another_with_equal_values_has_not() -> None:
    values = {("a", "game"): [1.0] * 8, ("b", "game"): [1.0, 0] * 4}
    values |= {("a", "deletion"): [0.0] * 8, ("b", "deletion"): [0.5, 0] * 4}
    table = summarise(Matrix.of(frame(values), pairs([*range(8)])), METRICS)
    hits, level = row(table, "a", "game"), row(table, "a", "deletion")
    assert hits["low"] < 0.7
    assert hits["high"] == pytest.approx(1)
    assert (level["low"], level["high"]) == (0, 0)


def test_plain_means_are_those_of_the_summary() -> None:
    values = {("sfam", "game"): [9, 0.5, 0.7], ("lafam", "game"): [0.1, 0.2, np.inf], ("sfam", "deletion"): [1, 0, 1]}
    flags = {("sfam", "game", 0): "empty_mask"} | {("sfam", "deletion", n): "zero_range" for n in range(3)}
    matrix = Matrix.of(frame(values, flags), pairs([0, 1, 2]))
    plain, whole = plain_means(matrix, METRICS), summarise(matrix, METRICS, draws=10)
    pd.testing.assert_frame_equal(plain, whole[plain.columns], check_dtype=False)
    assert plain["count"].tolist() == [2, 2, 0]
