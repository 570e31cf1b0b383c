"""Rates of verification, by hand and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from sfam_bench.core.errors import UserError
from sfam_bench.core.verification import (
    accept_pairs,
    best_threshold,
    calibrate,
    equal_error,
    roc_curve,
    verification_facts,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3])
SAME = np.array([1, 1, 0, 1, 1, 0, 0, 0], dtype=bool)


def draw(seed: int, ties: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    same = random.random(200) < 0.4
    return ((random.normal(size=200) + same) * ties).round() / ties, same


@pytest.mark.parametrize("ties", [2, 1000])
def test_the_curve_is_that_of_scikit_learn(ties: int) -> None:
    scores, same = draw(0, ties)
    found = roc_curve(scores, same)
    false, true, thresholds = sklearn_roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(
        found[["false_accepts", "true_accepts", "threshold"]], np.stack([false, true, thresholds], 1)
    )


def test_equal_error_by_hand() -> None:
    rate, threshold = equal_error(roc_curve(SCORES, SAME))
    assert rate == 0.25  # at 0.55: one of four different pairs accepted; missed falls from 1/4 to 0 there
    assert threshold == 0.6


def test_a_perfect_score_has_no_error_and_a_reversed_one_all() -> None:
    assert equal_error(roc_curve(SAME.astype(float), SAME))[0] == 0
    assert equal_error(roc_curve(-SAME.astype(float), SAME))[0] == 1


def test_the_best_threshold_is_midway() -> None:
    assert best_threshold(np.array([0.9, 0.7, 0.4]), np.array([True, True, False])) == pytest.approx(0.55)
    assert best_threshold(np.array([0.9, 0.7]), np.array([False, False])) == np.inf
    assert best_threshold(np.array([0.9, 0.7]), np.array([True, True])) == -np.inf


def test_no_pair_is_judged_by_a_threshold_that_it_chose() -> None:
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, True, False])
    # fold 0: 0.2 same, 0.1 different, judged by 0.9 and 0.8; fold 1 the other way round
    assert accept_pairs(scores, same).tolist() == [True, True, False, False]


def test_facts_of_stored_pairs() -> None:
    scores, same = draw(1, 1000)
    accepted = accept_pairs(scores, same)
    kinds = [
        f"{'same' if s else 'different'}_{'accepted' if a else 'rejected'}" for s, a in zip(same, accepted, strict=True)
    ]
    facts = verification_facts(pd.DataFrame({"score": scores, "kind": kinds}))
    assert facts["accuracy"] == (same == accepted).mean()
    assert facts["roc_auc"] == pytest.approx(roc_auc_score(same, scores))
    assert facts["same"] + facts["different"] == 200
    assert verification_facts(pd.DataFrame({"score": scores, "kind": "nearest_positive"})) == {}


def test_a_threshold_at_a_rate_of_false_accepts_is_the_lowest_that_keeps_it() -> None:
    assert calibrate(SCORES, SAME, 0.25) == 0.55  # at 0.5 two of four different pairs would be accepted
    assert calibrate(SCORES, SAME, 0.0) == 0.8
    assert calibrate(SCORES, SAME) == 0.6
    with pytest.raises(UserError, match="no threshold has at most 0 false accepts"):
        calibrate(-SCORES, SAME, 0.0)
    with pytest.raises(UserError, match="of the same and of different classes"):
        calibrate(SCORES, SCORES > 0)
