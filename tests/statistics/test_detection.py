"""The detection rate: against pairs counted one by one, and for models that maps cannot tell apart."""

import numpy as np
import pandas as pd
import pytest
import scipy

from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics.detection import detection_rate, influences


def run(values: np.ndarray, name: str = "sfam") -> Matrix:
    """A run whose maps have these shares on the background, four pairs a class."""
    keys = {"dataset": "d", "model": "m", "target": "t", "explainer": name, "metric": "background_energy", "flag": ""}
    ids = [f"q{n}" for n in range(len(values))]
    records = pd.DataFrame({**keys, "query_id": ids, "reference_id": "r", "value": values})
    pairs = pd.DataFrame({"query_id": ids, "reference_id": "r", "query_label": np.arange(len(values)) // 4})
    return Matrix.of(records, pairs)


def test_influences_average_to_the_share_of_ordered_pairs() -> None:
    first, second = np.array([3.0, 1.0, 2.0, 2.0]), np.array([2.0, 0.0, 3.0])
    ordered = np.mean([(a > b) + 0.5 * (a == b) for a in first for b in second])
    found = influences(first, second)
    assert found[:4].mean() == pytest.approx(ordered)
    assert found[4:].mean() == pytest.approx(ordered)
    assert np.isnan(influences(first, second[:0])).all()


def test_intervals_have_their_level() -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(200):
        shared = np.repeat(rng.normal(size=24), 4)  # classes that are high in both runs
        high, low = (shared + rng.normal(size=96) + shift for shift in (1.0, 0.0))
        row = detection_rate(run(high), run(low), "background_energy").iloc[0]
        inside.append(row["low"] <= scipy.stats.norm.cdf(0.5) <= row["high"])  # differences have the variance 4
    assert 0.9 <= np.mean(inside) <= 1.0


def test_models_whose_maps_lie_apart_are_told_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.uniform(0, 0.4, 80), rng.uniform(0.6, 1, 80)
    apart = detection_rate(run(high), run(low), "background_energy").iloc[0]
    assert apart["auc"] == 1
    equal = detection_rate(run(low), run(rng.uniform(0, 0.4, 80)), "background_energy").iloc[0]
    assert equal["low"] < 0.5 < equal["high"]
    assert equal["clusters"] == 20
    assert detection_rate(run(low), run(high), "background_energy")["auc"].iloc[0] == 0


def test_methods_of_one_run_alone_and_flagged_pairs_are_left_out() -> None:
    values = np.linspace(0, 1, 12)
    assert detection_rate(run(values), run(values, "lafam"), "background_energy").empty
    holed = np.where(np.arange(12) < 4, np.nan, values)
    assert detection_rate(run(holed), run(values), "background_energy")["count"].iloc[0] == 8 + 12
