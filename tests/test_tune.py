"""Tuning: the same trials whatever stops it, no gain by leaving pairs out, no test class, and what evaluation takes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiments.settings import build
from experiments.tuned import classes_hash
from experiments.tuning import method
from sfam_bench.errors import UserError
from sfam_bench.spaces import Space
from sfam_bench.tuning import Study, Trial, halves, objective
from tests.contract import FILES, composed
from tests.test_bad_input import mistake, says

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]
SPACE = Space("method", {"x": {"low": 0.0, "high": 2.0}, "kind": ["a", "b", "c"]})
DEFAULT = {"x": 1.0, "kind": "a"}


def opened(path: Path, space: Space = SPACE, default: Mapping[str, Any] = DEFAULT, **more: Any) -> Any:
    settings = {"higher": True, "seed": 3, "identity": "one", "known": False, **more}
    found: AbstractContextManager[Study] = Study.opened(path, space, default, **settings)
    return found


def measure(fields: Mapping[str, Any]) -> pd.Series:
    """Best at x = 0.3 and kind b; one pair that nothing defines."""
    value = -((fields["x"] - 0.3) ** 2) + 0.1 * (fields["kind"] == "b")
    return pd.Series([value - 1, value + 1, math.nan])


def trials(path: Path, count: int, measured: Callable[[Mapping[str, Any]], pd.Series] = measure, **m: Any) -> list[Any]:
    with opened(path, **m) as study:
        list(study.run(count, measured))
        return [(t.place, t.fields, t.value, t.reason) for t in study.trials()]


# The search


def test_the_default_comes_first_and_the_best_trial_is_near_the_optimum(tmp_path: Path) -> None:
    with opened(tmp_path / "study.db") as study:
        done = list(study.run(40, measure))
        best = study.best()
    assert done[0].fields == DEFAULT
    assert done[0].value == pytest.approx(-0.49)
    assert best.value == max(trial.value for trial in done)
    assert best.fields["kind"] == "b"
    assert abs(best.fields["x"] - 0.3) < 0.3


def test_a_lower_value_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "study.db", higher=False) as study:
        done = list(study.run(15, lambda fields: -measure(fields)))
        assert study.best().value == min(trial.value for trial in done) < 0.49


@pytest.mark.parametrize("cuts", [(1, 12, 25), (13, 14, 25)])
def test_a_study_in_pieces_is_the_uninterrupted_one(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    whole = trials(tmp_path / "whole.db", 25)
    for count in cuts:
        pieces = trials(tmp_path / "pieces.db", count, known=(tmp_path / "pieces.db").exists())
        assert pieces == whole[:count]
    assert trials(tmp_path / "other.db", 3, seed=4)[1:] != whole[1:3]


def test_finished_trials_are_not_measured_again(tmp_path: Path) -> None:
    trials(tmp_path / "study.db", 6)
    asked: list[Mapping[str, Any]] = []
    trials(tmp_path / "study.db", 6, lambda fields: asked.append(fields) or measure(fields))
    assert asked == []


def test_a_setting_that_was_tried_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[Any] = []
    few = Space("method", {"kind": ["a", "b", "c"]})
    found = trials(
        *(tmp_path / "study.db", 20, lambda fields: asked.append(fields["kind"]) or measure({"x": 0, **fields})),
        **{"space": few, "default": {"kind": "a"}},
    )
    assert len(found) == 20
    assert sorted(asked) == ["a", "b", "c"]


KILLED = """
import sys, os, signal, pandas
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_tune import opened, measure
count = 0
def dying(fields):
    global count
    count += 1
    if count > {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(fields)
with opened(Path({path!r})) as study:
    list(study.run(25, dying))
"""


@pytest.mark.parametrize("at", [0, 13])
def test_a_killed_study_loses_the_running_trial_alone_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, at: int
) -> None:
    path = tmp_path / "killed.db"
    script = KILLED.format(root=str(ROOT), path=str(path), at=at)
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    with opened(path, known=True) as study:
        assert len(study.trials()) == at
        assert study.lost == 1
        list(study.run(25, measure))
        found = [(t.place, t.fields, t.value, t.reason) for t in study.trials()]
    assert found == trials(tmp_path / "whole.db", 25)


def test_a_refused_value_fails_its_trial_with_the_reason_and_counts(tmp_path: Path) -> None:
    def refusing(fields: Mapping[str, Any]) -> pd.Series:
        if fields["kind"] == "c":
            raise UserError("kind c is\nnot for us")
        return measure(fields)

    found = trials(tmp_path / "study.db", 20, refusing)
    failed = [trial for trial in found if trial[2] is None]
    assert len(found) == 20
    assert failed
    assert {(trial[1]["kind"], trial[3]) for trial in failed} == {("c", "kind c is not for us")}


def test_a_default_that_fails_ends_the_study_and_is_tried_again(tmp_path: Path) -> None:
    def refusing(fields: Mapping[str, Any]) -> pd.Series:
        raise UserError("not with this model")

    with pytest.raises(UserError, match="not with this model"):
        trials(tmp_path / "study.db", 5, refusing)
    assert trials(tmp_path / "study.db", 5) == trials(tmp_path / "whole.db", 5)


def test_no_setting_wins_by_leaving_hard_pairs_out() -> None:
    nan = math.nan
    assert objective([1.0, 2.0, nan], [5.0, 6.0, nan]) == 1.5
    assert objective([1.0, 2.0, 100.0], [5.0, 6.0, nan]) == 1.5  # over the default's pairs alone
    with pytest.raises(UserError, match="1 of the 2 pairs undefined"):
        objective([nan, 9.0, nan], [5.0, 6.0, nan])
    with pytest.raises(UserError, match="undefined on every pair"):
        objective([1.0], [nan])


def test_among_equals_the_one_nearest_to_the_default_is_chosen(tmp_path: Path) -> None:
    with opened(tmp_path / "study.db") as study:
        list(study.run(12, lambda fields: pd.Series([1.0])))
        assert study.best().fields == DEFAULT
        assert study.departures(Trial(1, {"x": 1.0, "kind": "b"}, 1.0, "", 0.0)) == ["kind"]


def test_two_processes_cannot_tune_one_study(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "study.db"),
        pytest.raises(UserError, match="another run is tuning"),
        opened(tmp_path / "study.db"),
    ):
        pass
    assert len(trials(tmp_path / "study.db", 2)) == 2


def test_a_damaged_a_lost_and_another_study_are_refused(tmp_path: Path) -> None:
    trials(tmp_path / "study.db", 2)
    with pytest.raises(UserError, match="another config"):
        trials(tmp_path / "study.db", 3, identity="two")
    assert len(trials(tmp_path / "study.db", 3)) == 3
    (tmp_path / "study.db").write_bytes(b"")
    with pytest.raises(UserError, match="holds no study any more"):
        trials(tmp_path / "study.db", 3, known=True)
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot use .*study.db"):
        trials(tmp_path / "study.db", 3, known=True)


@pytest.mark.parametrize(
    ("fields", "default", "words"),
    [
        ({"x": {"low": 2.0, "high": 1.0}}, {"x": 1.0}, "space.fields.x"),
        ({"x": {"low": 0.0}}, {"x": 1.0}, "low and high"),
        ({"x": 3}, {"x": 1.0}, "low and high"),
        ({"x": {"low": 0.0, "high": 0.5}}, {"x": 1.0}, "without the default 1.0"),
        ({"x": ["a", "b"]}, {"x": "c"}, "without the default 'c'"),
        ({"x": {"low": 0.0, "high": 0.5}}, {"x": None}, "without the default None"),
    ],
)
def test_a_wrong_space(tmp_path: Path, fields: Any, default: Any, words: str) -> None:
    with pytest.raises(UserError, match=words), opened(tmp_path / "study.db", Space("m", fields), default):
        pass
    assert not (tmp_path / "study.db").exists()


def test_halves_are_disjoint_repeat_and_hold_all() -> None:
    tuning, held_out = halves([5, 5, 1, 2, 9, 8, 7], 0.5, 0)
    assert not {*tuning} & {*held_out}
    assert sorted(tuning + held_out) == [1, 2, 5, 7, 8, 9]
    assert len(tuning) == len(held_out) == 3
    assert halves([1, 2, 5, 7, 8, 9], 0.5, 0) == (tuning, held_out)
    assert len(halves(range(12), 0.25, 0)[1]) == 3
    for share in (0.0, 1.0, 0.1):
        with pytest.raises(UserError, match="held_out"):
            halves(range(6), share, 0)


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "space"])
def test_every_space_holds_the_defaults_and_values_that_its_method_takes(tmp_path: Path, name: str) -> None:
    cfg = composed("tune", f"space={name}")
    space = build(cfg.space)
    _, explainer = method(cfg, space)
    default = {field: getattr(explainer, field) for field in space.fields}
    tried: list[str] = []
    with opened(tmp_path / "study.db", space, default) as study:
        from experiments.settings import check_fields

        for trial in islice(study.run(12, lambda fields: tried.append(str(fields)) or pd.Series([1.0])), 12):
            check_fields({"_target_": cfg.explainer[space.method]["_target_"], **trial.fields}, name)
            type(explainer)(**trial.fields)
    assert len(tried) > 1
