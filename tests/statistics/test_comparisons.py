"""Comparisons: numbers by hand, error rates by simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfam_bench.statistics import comparisons
from sfam_bench.statistics.comparisons import (
    FEW_CLASSES,
    compare_with_best,
    holm,
    rank_biserial,
    sign_flip_p,
    sign_flips,
)

NAN = np.nan


def test_all_patterns_of_signs_where_they_are_few() -> None:
    flips = sign_flips(4, 10_000)
    assert (flips[0] == 1).all()
    both = {tuple(row) for row in [*flips.tolist(), *(-flips).tolist()]}
    assert both == set(itertools.product((1.0, -1.0), repeat=4))
    assert sign_flips(40, 100).shape == (100, 40)
    assert (sign_flips(40, 100)[0] == 1).all()


def test_p_by_enumeration() -> None:
    sums = np.array([3.0, -1, 2, 4, 1, 0.5])
    totals = [abs(np.dot(sums, signs)) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.array(totals) >= abs(sums.sum()) - 1e-9)
    pairs = np.repeat(sums / 2, 2)  # two pairs of each class
    assert sign_flip_p(pairs[:, None], np.arange(6).repeat(2)) == pytest.approx([expected])


def test_p_of_what_cannot_be_tested() -> None:
    columns = np.array([[NAN, 0.0, 1], [NAN, 0, 1], [NAN, 0, NAN]])
    p = sign_flip_p(columns, np.array([0, 1, 2]))
    assert np.isnan(p[0])
    assert p[1:].tolist() == [1, 0.5]  # two classes: one pattern of two
    assert np.isnan(sign_flip_p(np.ones((5, 1)), np.zeros(5)))  # a single class


@pytest.mark.parametrize("ahead", [0.0, 0.04, 0.08])
def test_many_classes_need_no_flips(ahead: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, classes = np.random.default_rng(1), np.arange(2_400) % 1_200
    values = rng.exponential(size=(2_400, 4)) + rng.exponential(size=(1_200, 1))[classes] + [ahead, 0, 0, ahead / 2]
    values[::50, 2] = NAN
    normal = sign_flip_p(values[:, 1:] - values[:, :1], classes), compare_with_best(values, classes)
    monkeypatch.setattr(comparisons, "NORMAL_FROM", np.inf)
    flipped = sign_flip_p(values[:, 1:] - values[:, :1], classes), compare_with_best(values, classes)
    assert normal[0] == pytest.approx(flipped[0], abs=0.02)
    assert normal[1].p == pytest.approx(flipped[1].p, abs=0.02)
    assert (normal[1].best, normal[1].tied.tolist()) == (flipped[1].best, flipped[1].tied.tolist())


def test_one_class_that_outweighs_all_others_is_flipped() -> None:
    values = np.r_[100.0, np.tile([0.01, -0.01], 500)][:, None]
    assert sign_flip_p(values, np.arange(1_001)) == pytest.approx([0.5], abs=0.03)  # normal totals would give 0.32


def test_the_best_is_chosen_over_the_shared_pairs() -> None:
    # A is flagged on the pairs that are hard for both; on those that it has, B is better
    rng = np.random.default_rng(0)
    ease = np.r_[rng.normal(0.9, 0.01, 30), rng.normal(0.3, 0.01, 30)]
    a, b = np.r_[ease[:30], np.full(30, NAN)], ease + 0.045
    found = compare_with_best(np.stack([a, b], axis=1), np.tile(np.arange(15), 4))
    assert np.nanmean(a) > b.mean()
    assert (found.best, found.pairs, found.classes) == (1, 30, 15)
    assert not found.tied.any()
    assert found.p[0] < 0.01


def test_a_method_with_few_pairs_is_not_compared() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    values[:25, 1] = NAN
    found = compare_with_best(values, np.arange(40))
    assert found.compared.tolist() == [True, False, True]
    assert found.pairs == 40
    assert np.isnan(found.p[1])
    assert not found.tied[1]


@pytest.mark.parametrize("classes", range(1, FEW_CLASSES))
def test_few_classes_have_no_mark(classes: int) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2)) + np.array([0, 100])
    found = compare_with_best(values, np.arange(60) % classes)
    assert found.best == -1
    assert not found.tied.any()


def test_one_pair_names_no_winner() -> None:
    assert compare_with_best(np.array([[0.1, 0.9]]), np.array([0])).best == -1


def test_equal_methods_have_no_best_and_a_certain_loser_is_found() -> None:
    same = np.random.default_rng(0).normal(size=(20, 1))
    assert compare_with_best(np.tile(same, 3), np.arange(20)).best == -1
    found = compare_with_best(np.hstack([same, same, same - 0.1]), np.arange(20))
    assert (found.best, found.tied.tolist()) == (0, [False, True, False])
    assert found.p[2] == pytest.approx(1 / 2**20, abs=1e-3)


def test_six_classes_can_tell_a_clear_loser() -> None:
    rng = np.random.default_rng(0)
    found = compare_with_best(rng.normal(size=(60, 2)) + np.array([0, 9]), np.arange(60) % 6)
    assert (found.best, found.tied[0]) == (1, False)
    assert found.p[0] == pytest.approx(2 / 64)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
@pytest.mark.parametrize("values", ["normal", "hits"])
def test_equal_methods_are_rarely_marked_as_losers(correlation: float, values: str) -> None:
    rng, classes, size, tables = np.random.default_rng(0), 15, 4, 300
    labels, false = np.arange(classes).repeat(size), 0
    for _ in range(tables):
        common = rng.normal(size=(classes, 10))[labels]
        drawn = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=(len(labels), 10))
        found = compare_with_best((drawn < 0.8).astype(float) if values == "hits" else drawn, labels, draws=500)
        marked = found.tied.copy()
        marked[found.best] = True
        false += not marked.all()
    assert false / tables <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / tables)


def test_losers_stay_losers_when_others_join() -> None:
    """A step-down comparison: many clear losers cost the close ones little."""
    rng = np.random.default_rng(0)
    close = rng.normal(size=(60, 2)) + np.array([0, 0.6])
    alone = compare_with_best(close, np.arange(60) % 20).p[0]
    losers = rng.normal(size=(60, 20)) - 10
    assert compare_with_best(np.hstack([close, losers]), np.arange(60) % 20).p[0] == pytest.approx(alone, abs=0.02)


def test_the_effect_size_by_hand() -> None:
    assert rank_biserial(np.array([0, 0, 1.0, -2, 3, np.nan])) == pytest.approx((1 - 2 + 3) / 6)
    assert rank_biserial(np.array([1.0, -1, 5])) == pytest.approx((1.5 - 1.5 + 3) / 6)
    assert rank_biserial(np.zeros(3)) == 0
    assert np.isnan(rank_biserial(np.array([np.nan])))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12))
def test_the_effect_size_is_of_wilcoxons_sums(values: list[int]) -> None:
    differences = np.array(values, dtype=float)
    assert rank_biserial(-differences) == pytest.approx(-rank_biserial(differences))
    if count := np.count_nonzero(differences):
        less = stats.wilcoxon(differences).statistic  # the smaller sum of ranks
        assert abs(rank_biserial(differences)) == pytest.approx(1 - 4 * less / (count * (count + 1)))


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    adjusted = holm(np.array([0.02, np.nan, 0.03]))
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])
