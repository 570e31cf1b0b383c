"""Published numbers, numbers by hand, and what must hold for any ratings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sfam_bench.core.errors import UserError
from sfam_bench.statistics.agreement import (
    critical_difference,
    find_cliques,
    kendall_w,
    krippendorff_alpha,
    ranking,
    row_taus,
    tau_matrix,
)

NAN = np.nan
# Krippendorff, Content Analysis: four observers, twelve units, ratings 1 to 5, gaps
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
few = arrays(float, st.tuples(st.integers(2, 6), st.integers(2, 7)), elements=st.integers(0, 5).map(float))


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level: str, alpha: float) -> None:
    assert krippendorff_alpha(OBSERVERS, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand() -> None:
    # values 0 0 1 1 by one rater, 0 1 1 1 by the other: D_o = 2/8, D_e = 2 * 3 * 5 / (8 * 7)
    ratings = np.array([[0.0, 0, 1, 1], [0, 1, 1, 1]])
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(1 - (2 / 8) / (30 / 56))


def test_concordance_with_ties_by_hand() -> None:
    # Siegel and Castellan's correction: ranks 1 2.5 2.5 4 and 1 2 3 4; sums 2 4.5 5.5 8, S = 18.5, one tie of two
    assert kendall_w(np.array([[1.0, 2, 2, 4], [10, 20, 30, 40]])) == pytest.approx(12 * 18.5 / (4 * 60 - 2 * 6))
    assert kendall_w(np.array([[1.0, 2, 3], [3, 2, 1]])) == 0
    assert kendall_w(np.array([[1.0, 1, 2], [1, 1, 2]])) == pytest.approx(1)


def test_concordance_of_nothing_is_nan() -> None:
    assert np.isnan(kendall_w(np.ones((3, 4))))
    assert np.isnan(kendall_w(np.array([[1.0, 2, 3]])))
    assert np.isnan(krippendorff_alpha(np.ones((3, 4))))
    assert np.isnan(krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2.0]])))


@settings(deadline=None)
@given(few)
def test_concordance_is_friedman_scaled(ratings: np.ndarray) -> None:
    if ratings.shape[1] < 3 or not np.ptp(ratings, axis=1).any():
        return
    statistic = stats.friedmanchisquare(*ratings.T).statistic
    raters, things = ratings.shape
    assert kendall_w(ratings) == pytest.approx(statistic / (raters * (things - 1)))


@settings(deadline=None)
@given(few, st.permutations(range(7)))
def test_agreement_hangs_on_no_order_and_no_scale(ratings: np.ndarray, order: list[int]) -> None:
    order = [place for place in order if place < ratings.shape[1]]
    for measure in (kendall_w, krippendorff_alpha):
        expected = pytest.approx(measure(ratings), nan_ok=True, abs=1e-9)
        assert measure(ratings[:, order]) == expected
        assert measure(ratings[::-1]) == expected
        assert measure(np.exp(ratings)) == expected  # ordinal


@settings(deadline=None)
@given(few)
def test_raters_of_one_mind_agree(ratings: np.ndarray) -> None:
    same = np.repeat(ratings[:1], 3, axis=0)
    for measure in (kendall_w, krippendorff_alpha):
        assert measure(same) == pytest.approx(1 if np.ptp(same) else NAN, nan_ok=True)
        assert np.isnan(measure(ratings)) or measure(ratings) <= 1 + 1e-12


def test_demsars_example() -> None:
    # Demšar, JMLR 7 (2006): AUC of four classifiers on 14 data sets; one tie of the print is none in its ranks
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    table = """0.763 0.768 0.771 0.798  0.599 0.591 0.590 0.569  0.954 0.971 0.968 0.967  0.628 0.661 0.654 0.657
    0.882 0.888 0.886 0.898  0.936 0.931 0.916 0.931  0.661 0.668 0.609 0.685  0.583 0.583 0.563 0.625
    0.775 0.838 0.866 0.875  1.000 1.000 1.000 1.000  0.940 0.962 0.965 0.962  0.619 0.666 0.614 0.669
    0.972 0.981 0.9751 0.975  0.957 0.978 0.946 0.970"""
    found = ranking(np.array(table.split(), dtype=float).reshape(14, 4))
    assert found.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.blocks == 14
    plain = 12 * 14 / (4 * 5) * ((found.ranks**2).sum() - 4 * 5**2 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)  # as printed, without the correction for ties
    shared = [2, 2, 4, 2]  # ties in the rows of iris, lung cancer, mushroom and primary tumor
    corrected = plain / (1 - sum(count**3 - count for count in shared) / (14 * 4 * (4**2 - 1)))
    assert found.statistic == pytest.approx(corrected)


def test_ranks_share_ties_and_leave_out_gaps() -> None:
    found = ranking(np.array([[0.9, 0.5, 0.5], [NAN, 1, 2], [0.1, 0.3, 0.2]]))
    assert found.ranks == pytest.approx([2, 1.75, 2.25])
    assert found.blocks == 2
    assert np.isnan(ranking(np.ones((4, 3))).p)
    assert np.isnan(ranking(np.array([[1.0, 2.0]])).p)
    with pytest.raises(UserError, match="none of them has flagged"):
        ranking(np.full((3, 2), NAN))


def test_cliques_are_the_longest_runs() -> None:
    ranks = np.array([1.0, 1.4, 2.2, 4.0, 4.1])
    assert find_cliques(ranks, 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert find_cliques(ranks, 0.05) == []
    assert find_cliques(ranks, 9.0) == [(0, 4)]


def test_tau_is_over_what_both_rate() -> None:
    found = tau_matrix(np.array([[1.0, 2, 3, NAN], [3, 2, 1, 0], [1, 1, 1, 1], [1, 3, 2, 9]]))
    assert found[0, 1] == -1
    assert found[0, 3] == pytest.approx(1 / 3)
    assert np.isnan(found[2]).all()
    assert np.array_equal(found, found.T, equal_nan=True)


def test_tau_is_that_of_scipy_with_ties_and_gaps() -> None:
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 5, (12, 9)).astype(float)
    ratings[rng.random(ratings.shape) < 0.2] = NAN
    ratings[3] = 2.0
    found = tau_matrix(ratings)
    for one, other in zip(*np.triu_indices(len(ratings)), strict=True):
        both = np.isfinite(ratings[one]) & np.isfinite(ratings[other])
        expected = stats.kendalltau(ratings[one, both], ratings[other, both]).statistic
        assert found[one, other] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    whole = rng.integers(0, 5, (12, 9)).astype(float)
    rows = row_taus(whole, whole[::-1])
    assert rows == pytest.approx(np.diag(tau_matrix(whole)[::-1]), nan_ok=True)
