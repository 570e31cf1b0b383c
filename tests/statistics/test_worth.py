"""Metrics judged: by hand, and by metrics that are made to tell or not to tell."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sfam_bench.core.baselines import Blur
from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.metrics.localisation import PointingGame
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.metrics.shared.steps import Midpoint
from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics import worth as meta

RUN = {"dataset": "cub", "model": "lite0", "target": "similarity", "reference_id": "r", "flag": ""}
METRICS = metric_facts(
    {
        "deletion_mean_colour": Perturbation("deletion"),
        "deletion_blur": Perturbation("deletion", Blur()),
        "insertion_mean_colour": Perturbation("insertion"),
        "insertion_mean_colour_31": Perturbation("insertion", steps=Midpoint(31)),
        "pointing_game": PointingGame(),
        "area": Described(MetricCard()),
    }
)
PAIRS = pd.DataFrame({"query_id": [f"q{n}" for n in range(12)], "reference_id": "r", "query_label": np.arange(12) // 3})


def records(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    """Records of `values[explainer, metric]`, one value for each of the queries q0, q1, ..."""
    rows = [
        {**RUN, "explainer": explainer, "metric": metric, "query_id": f"q{number}", "value": value}
        for (explainer, metric), column in values.items()
        for number, value in enumerate(column)
    ]
    return pd.DataFrame(rows).assign(flag=lambda frame: np.where(frame["value"].isna(), "zero_range", ""))


def told(
    exact: list[float], chance: list[float], metric: str = "insertion_mean_colour", of_class: int = 3
) -> pd.Series:
    frame = records({(meta.EXACT, metric): exact, ("chance", metric): chance})
    pairs = PAIRS.assign(query_label=np.arange(12) // of_class)
    (row,) = meta.separation(Matrix.of(frame, pairs), METRICS).to_dict("records")
    return pd.Series(row)


def test_the_share_of_pairs_by_hand_ties_count_half_and_gaps_not_at_all() -> None:
    row = told([2.0] * 6 + [0.0] * 3 + [1.0] * 2 + [np.nan], [1.0] * 12)
    assert row["share"] == pytest.approx((6 + 0 + 1) / 11)
    assert (row["count"], row["clusters"], row["control"]) == (11, 4, "chance")
    assert row["low"] <= row["share"] <= row["high"]


@pytest.mark.parametrize(("metric", "sign"), [("insertion_mean_colour", 1), ("deletion_mean_colour", -1)])
def test_a_metric_tells_where_the_exact_one_is_nearly_always_better_in_its_own_direction(metric, sign) -> None:
    better, nothing = [1.0 * sign] * 11 + [0.0], [0.0] * 12
    assert told(better, nothing, metric, of_class=1)["tells"]
    assert not told(nothing, better, metric, of_class=1)["tells"]
    assert not told(nothing, nothing, metric, of_class=1)["tells"]


def test_no_pair_against_it_is_no_certainty() -> None:
    row = told([1.0] * 12, [0.0] * 12)
    assert (row["share"], row["high"]) == (1, 1)
    bound = 1 - stats.t.ppf(0.975, 3) ** 2 / (4 + stats.t.ppf(0.975, 3) ** 2)  # Wilson's, of four classes
    assert row["low"] == pytest.approx(bound)
    assert not row["tells"]  # of four classes
    row = told([0.0] * 12, [1.0] * 12)
    assert (row["low"], row["high"]) == (0, pytest.approx(1 - bound))


def test_metrics_without_a_better_side_and_runs_without_the_exact_one_are_left_out() -> None:
    frame = records({(meta.EXACT, "area"): [1.0] * 12, ("chance", "area"): [0.0] * 12, ("sfam", "area"): [0.0] * 12})
    assert meta.separation(Matrix.of(frame, PAIRS), METRICS).empty
    assert meta.ranks(Matrix.of(frame, PAIRS), METRICS).empty
    assert meta.separation(Matrix.of(records({("chance", "deletion_mean_colour"): [0.0] * 12}), PAIRS), METRICS).empty


def test_ranks_are_of_means_of_classes_and_follow_the_direction() -> None:
    values = {"sfam": 0.1, "lafam": 0.2, "chance": 0.9}
    frame = records({(name, "deletion_mean_colour"): [value] * 12 for name, value in values.items()})
    found = meta.ranks(Matrix.of(frame, PAIRS), METRICS)
    assert dict(zip(found["explainer"], found["rank"], strict=True)) == {"sfam": 1, "lafam": 2, "chance": 3}
    assert set(found["of"]) == {"classes"}
    assert set(found["blocks"]) == {4}
    assert (found["halves"] == 1).all()
    assert (found["p"] < 0.05).all()


def test_an_explainer_that_is_mostly_flagged_does_not_cost_the_others_their_pairs() -> None:
    rare = [1.0] + [np.nan] * 11
    names = {"sfam": [0.1] * 12, "lafam": [0.2] * 12, "chance": [0.9] * 12, "rare": rare}
    found = meta.ranks(
        Matrix.of(records({(name, "deletion_mean_colour"): column for name, column in names.items()}), PAIRS), METRICS
    )
    assert "rare" not in set(found["explainer"])
    assert set(found["blocks"]) == {4}


def summed(means: dict[str, dict[str, float]], model: str = "lite0") -> pd.DataFrame:
    run = {"dataset": "cub", "model": model, "target": "similarity", "count": 12}
    rows = [
        {**run, "metric": metric, "explainer": name, "mean": mean, "higher_is_better": not metric.startswith("del")}
        for metric, row in means.items()
        for name, mean in row.items()
    ]
    return pd.DataFrame(rows)


UP = {"sfam": 0.3, "grad_cam": 0.2, "chance": 0.1}
DOWN = {"sfam": 0.1, "grad_cam": 0.2, "chance": 0.3}


def agreed(frame: pd.DataFrame, over: str, controls: bool = True) -> pd.Series:
    table = meta.agreement(meta.ratings(frame, METRICS), blind=["chance"])
    (row,) = table[(table["over"] == over) & (table["controls"] == controls)].to_dict("records")
    return pd.Series(row)


def test_metrics_of_one_order_agree_whichever_side_is_better() -> None:
    frame = summed({"deletion_mean_colour": DOWN, "deletion_blur": DOWN, "pointing_game": UP})
    row = agreed(frame, "metrics")
    assert (row["raters"], row["explainers"], row["w"], row["tau"], row["least_tau"]) == (3, 3, 1, 1, 1)
    assert agreed(frame, "baselines")["raters"] == 2
    assert agreed(frame, "metrics of a kind")["within"].endswith("Faithfulness")


def test_a_metric_of_few_explainers_does_not_cost_the_others_theirs() -> None:
    frame = summed({"deletion_mean_colour": DOWN, "deletion_blur": DOWN, "pointing_game": {"sfam": 0.3}})
    row = agreed(frame, "metrics")
    assert (row["raters"], row["explainers"], row["w"]) == (2, 3, 1)
    kept = summed({"deletion_mean_colour": DOWN, "pointing_game": {"sfam": 0.3, "chance": 0.1}})
    assert agreed(kept, "metrics")["explainers"] == 2  # of three, which is more than half


def test_step_counts_of_one_baseline_are_compared_and_nothing_that_differs_in_neither() -> None:
    frame = summed({"insertion_mean_colour": UP, "insertion_mean_colour_31": DOWN, "pointing_game": UP})
    row = agreed(frame, "step counts")
    assert (row["raters"], row["tau"], row["within"]) == (2, -1, "cub · lite0 · similarity · insertion · mean_colour")
    found = meta.agreement(meta.ratings(frame, METRICS))
    assert "baselines" not in set(found["over"])


def test_opposite_orders_disagree_and_blind_explainers_are_left_out_of_the_second_row() -> None:
    frame = summed({"deletion_mean_colour": DOWN, "deletion_blur": UP})
    row = agreed(frame, "baselines")
    assert (row["w"], row["tau"]) == (0, -1)
    assert row["alpha"] < 0
    assert agreed(frame, "baselines", controls=False)["explainers"] == 2


def test_models_are_compared_metric_by_metric() -> None:
    frame = pd.concat([summed({"deletion_mean_colour": DOWN}), summed({"deletion_mean_colour": DOWN}, "fine-tuned")])
    row = agreed(frame, "data sets and models")
    assert (row["raters"], row["w"]) == (2, 1)
