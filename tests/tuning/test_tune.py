"""Tuning: the same trials whatever stops it, no gain by leaving pairs out, no test class, and what evaluation takes."""

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sfam_bench.app.settings import build, check_fields
from sfam_bench.app.tuning import read_method
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_json
from sfam_bench.datasets.base import split_hash
from sfam_bench.models.build import save
from sfam_bench.runs.reader import read_run
from sfam_bench.tuning.spaces import Space
from sfam_bench.tuning.studies import Trial, objective, split_classes
from tests.contract import FILES, composed
from tests.paths import ROOT
from tests.scripts import Run, mistake, says
from tests.tuning.toy import DEFAULT, measure, opened


def trials(path: Path, count: int, measured: Callable[[Mapping[str, Any]], pd.Series] = measure, **m: Any) -> list[Any]:
    with opened(path, **m) as study:
        list(study.run(count, measured))
        return [(t.place, t.fields, t.value, t.reason) for t in study.trials()]


# The search


def test_the_default_comes_first_and_the_best_trial_is_near_the_optimum(tmp_path: Path) -> None:
    with opened(tmp_path / "study.db") as study:
        done = list(study.run(25, measure))
        best = study.best()
    assert done[0].fields == DEFAULT
    assert done[0].value == pytest.approx(-0.49)
    assert best.value == max(trial.value for trial in done)
    assert best.fields["kind"] == "b"
    assert abs(best.fields["x"] - 0.3) < 0.3


def test_a_lower_value_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "study.db", higher=False) as study:
        done = list(study.run(6, lambda fields: -measure(fields)))
        assert study.best().value == min(trial.value for trial in done) < 0.49


@pytest.mark.parametrize("cuts", [(1, 12, 14), pytest.param((13, 14), marks=pytest.mark.slow)])
def test_a_study_in_pieces_is_the_uninterrupted_one(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    whole = trials(tmp_path / "whole.db", 14)
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
        *(tmp_path / "study.db", 12, lambda fields: asked.append(fields["kind"]) or measure({"x": 0, **fields})),
        **{"space": few, "default": {"kind": "a"}},
    )
    assert len(found) == 12
    assert sorted(asked) == ["a", "b", "c"]


KILLED = """
import os, signal
from pathlib import Path
from tests.tuning.toy import measure, opened
count = 0
def dying(fields):
    global count
    count += 1
    if count > {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(fields)
with opened(Path({path!r})) as study:
    list(study.run(14, dying))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 12])
def test_a_killed_study_loses_the_running_trial_alone_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, at: int
) -> None:
    path = tmp_path / "killed.db"
    script = KILLED.format(path=str(path), at=at)
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    with opened(path, known=True) as study:
        assert len(study.trials()) == at
        assert study.count_interrupted() == 1
        list(study.run(14, measure))
        found = [(t.place, t.fields, t.value, t.reason) for t in study.trials()]
    assert found == trials(tmp_path / "whole.db", 14)


def test_a_refused_value_fails_its_trial_with_the_reason_and_counts(tmp_path: Path) -> None:
    def refusing(fields: Mapping[str, Any]) -> pd.Series:
        if fields["kind"] == "c":
            raise UserError("kind c is\nnot for us")
        return measure(fields)

    found = trials(tmp_path / "study.db", 10, refusing)
    failed = [trial for trial in found if trial[2] is None]
    assert len(found) == 10
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
        list(study.run(4, lambda fields: pd.Series([1.0])))
        assert study.best().fields == DEFAULT
        assert study.departures(Trial(1, {"x": 1.0, "kind": "b"}, 1.0, "", 0.0)) == ["kind"]


def test_two_processes_cannot_tune_one_study(tmp_path: Path) -> None:
    code = "from pathlib import Path; from tests.tuning.toy import opened; import sys\n"
    code += "with opened(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "study.db")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with pytest.raises(UserError, match=f"is being tuned by another process.*{other.pid}"):
            trials(tmp_path / "study.db", 2)
        other.communicate()
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
    with pytest.raises(UserError, match="cannot use"):
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
    tuning, held_out = split_classes([5, 5, 1, 2, 9, 8, 7], 0.5, 0)
    assert not {*tuning} & {*held_out}
    assert sorted(tuning + held_out) == [1, 2, 5, 7, 8, 9]
    assert len(tuning) == len(held_out) == 3
    assert split_classes([1, 2, 5, 7, 8, 9], 0.5, 0) == (tuning, held_out)
    assert len(split_classes(range(12), 0.25, 0)[1]) == 3
    for share in (0.0, 1.0, 0.1):
        with pytest.raises(UserError, match="held_out"):
            split_classes(range(6), share, 0)


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "space"])
def test_every_space_holds_the_defaults_and_values_that_its_method_takes(tmp_path: Path, name: str) -> None:
    cfg = composed("tune", f"space={name}")
    space = build(cfg.space)
    _, explainer = read_method(cfg, space)
    default = {field: getattr(explainer, field) for field in space.fields}
    tried: list[str] = []
    with opened(tmp_path / "study.db", space, default) as study:
        for trial in islice(study.run(4, lambda fields: tried.append(str(fields)) or pd.Series([1.0])), 4):
            check_fields({"_target_": cfg.explainer[space.method]["_target_"], **trial.fields}, name)
            type(explainer)(**trial.fields)
    assert len(tried) > 1


# The script, and what evaluation takes of it

SMALL = [
    *("dataset.size=32", "dataset.train_per_class=2", "dataset.test_per_class=2", "model.image_size=32"),
    *("pairs.count=6", "pairs.kinds=[partial_match]", "steps.intervals=4", "batch_size=32", "passes.mode=eager"),
]
TUNE = [*SMALL, "metric=[evidence,deletion]", "objective=evidence_energy"]
EVALUATE = [*SMALL, "metric=[evidence]", "explainer=[sfam,lafam]"]


@pytest.fixture(scope="module")
def study(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was stopped after three trials, and gone on with."""
    run = tmp_path_factory.mktemp("tune") / "study"
    for count in (3, 8):
        code, _, err = run_script("tune", *TUNE, f"run_dir={run}", f"trials={count}")
        assert code == 0, err
    return run


@pytest.mark.slow
def test_a_study_does_not_lose_trials(study: Path, run_script: Run) -> None:
    before = (study / "manifest.json").read_text()
    says(mistake(run_script("tune", *TUNE, f"run_dir={study}", "trials=5", "resume=true")), "has 8 trials", "trials=8")
    assert (study / "manifest.json").read_text() == before


@pytest.mark.slow
def test_the_folder_says_what_was_done(study: Path) -> None:
    manifest = json.loads((study / "manifest.json").read_text())
    table = pd.read_csv(study / "trials.csv")
    assert manifest["done"]
    assert manifest["budget"] == {"trials": 8, "completed": 8, "failed": 0, "lost": 0}
    assert len(table) == 8
    assert table.loc[0, "gamma"] == manifest["default"]["gamma"] == 1.0
    best = table.loc[manifest["trial"]]
    assert best["value"] == table["value"].max()
    tuning, held_out = manifest["tuning"], manifest["held_out"]
    assert tuning["default"] == pytest.approx(table.loc[0, "value"], abs=1e-6)
    assert tuning["chosen"] == pytest.approx(best["value"], abs=1e-6)
    for fold in (tuning, held_out):
        assert fold["difference"] == pytest.approx(fold["chosen"] - fold["default"])
        assert fold["low"] <= fold["difference"] <= fold["high"]
        assert fold["pairs"] == 6
    classes = manifest["classes"]
    assert not {*classes["tuning"]} & {*classes["held_out"]}
    assert len(classes["tuning"]) == len(classes["held_out"]) == 48
    chosen = yaml.safe_load((study / "chosen.yaml").read_text())["sfam"]
    assert {name: chosen[name] for name in manifest["space"]} == manifest["chosen"]
    assert manifest["versions"]["optuna"]
    assert manifest["objective"] == {"metric": "evidence_energy", "higher_is_better": True}


@pytest.mark.slow
def test_an_uninterrupted_study_has_the_same_trials(study: Path, run_script: Run, tmp_path: Path) -> None:
    assert run_script("tune", *TUNE, f"run_dir={tmp_path / 'run'}", "trials=8")[0] == 0
    ours, theirs = (pd.read_csv(run / "trials.csv").drop(columns="seconds") for run in (study, tmp_path / "run"))
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.slow
def test_evaluation_has_the_tuned_method_beside_the_default(study: Path, run_script: Run, tmp_path: Path) -> None:
    code, _, err = run_script("evaluate", *EVALUATE, f"run_dir={tmp_path / 'run'}", f"tuned=[{study}]")
    assert code == 0, err
    found = read_run(tmp_path / "run")
    assert {*found.matrix.explainers} == {"sfam", "lafam", "sfam tuned"}
    said, manifest = found.manifest["tuned"]["sfam tuned"], json.loads((study / "manifest.json").read_text())
    assert {name: said[name] for name in said} == {name: manifest[name] for name in said}
    assert {"budget", "chosen", "objective", "classes_hash"} <= said.keys()
    again = ("evaluate", *EVALUATE, f"run_dir={tmp_path / 'run'}", "resume=true")
    says(mistake(run_script(*again)), "another config")  # what was tuned is a part of what the run is


def changed(study: Path, to: Path, **facts: Any) -> Path:
    shutil.copytree(study, to)
    write_json(to / "manifest.json", {**json.loads((to / "manifest.json").read_text()), **facts})
    return to


@pytest.mark.slow
def test_a_study_that_evaluation_does_not_take(study: Path, run_script: Run, tmp_path: Path) -> None:
    split = json.loads((study / "manifest.json").read_text())["split"]
    shared = {"tuning": [0, 1], "held_out": [2, 3]}
    cases: list[tuple[str, Path, list[str], tuple[str, ...]]] = [
        ("none", tmp_path / "nowhere", [], ("no run folder", "nowhere")),
        ("unfinished", changed(study, tmp_path / "a", done=False), [], ("unfinished", "sfam-bench tune")),
        ("kind", changed(study, tmp_path / "b", kind="evaluate"), [], ("is not a study",)),
        (
            "split",
            changed(study, tmp_path / "c", split={**split, "hash": "x"}),
            [],
            ("was tuned on planted (split x)",),
        ),
        ("dataset", changed(study, tmp_path / "d", dataset="cub"), [], ("was tuned on cub",)),
        ("method", study, ["explainer=[lafam]"], ("tuned sfam, which is not evaluated",)),
        ("class", study, ["split=train"], ("was tuned on 96 of the classes evaluated",)),
        ("classes", changed(study, tmp_path / "e", classes=shared), [], ("damaged", "does not fit itself")),
        ("chosen", changed(study, tmp_path / "f", chosen={"gamma": 7.0}), [], ("damaged", "chosen.yaml")),
    ]
    for name, root, more, words in cases:
        run = tmp_path / f"run-{name}"
        says(mistake(run_script("evaluate", *EVALUATE, f"run_dir={run}", f"tuned=[{root}]", *more)), *words)
        assert not run.exists()
    twice = ("evaluate", *EVALUATE, f"run_dir={tmp_path / 'run'}", f"tuned=[{study},{study}]")
    says(mistake(run_script(*twice)), "two studies of sfam")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"_target_": "os.system"}, ("os.system", "tune this one")),
        ({"epsilon": {"_target_": "os.getcwd"}}, ("values that are not plain",)),
        ({"gama": 1.0}, ("no setting 'gama'",)),
        ({"_partial_": True}, ("_partial_",)),
        ({"epsilon": "big"}, ("epsilon is 'big'", "a number")),
    ],
)
def test_a_folder_cannot_name_what_is_run(
    study: Path, run_script: Run, tmp_path: Path, fields: dict[str, Any], words: tuple[str, ...]
) -> None:
    root = changed(study, tmp_path / "study")
    chosen = yaml.safe_load((root / "chosen.yaml").read_text())
    (root / "chosen.yaml").write_text(yaml.safe_dump({"sfam": {**chosen["sfam"], **fields}}))
    evaluate = ("evaluate", *EVALUATE, f"run_dir={tmp_path / 'run'}", f"tuned=[{root}]")
    says(mistake(run_script(*evaluate)), "chosen.yaml is damaged or was edited")
    manifest = json.loads((root / "manifest.json").read_text())
    write_json(root / "manifest.json", {name: value for name, value in manifest.items() if name != "files"})
    says(mistake(run_script(*evaluate)), *words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+space.fields.gama=[1,2]"], ("space.fields names 'gama', which is not a field of sfam", "gamma")),
        (["space.fields.gamma.high=0.5"], ("space.fields.gamma", "without the default 1.0")),
        (["objective=nonsense"], ("objective=nonsense", "evidence_energy")),
        (["objective=evidence_energy_chance"], ("has no better end",)),
        (["explainer=[lafam]"], ("the space is of sfam, which is not chosen",)),
        (["space=nonsense"], ("no space 'nonsense'", "sfam")),
        (["trials=0"], ("trials is 0", "at least 1")),
        (["held_out=1.0"], ("held_out=1.0",)),
        (["split=test"], ("split=test", "test classes")),
        (["split=all"], ("split=all", "test classes")),
        (["pairs.kinds=[nonsense]"], ("nonsense",)),
    ],
)
def test_what_cannot_be_tuned(run_script: Run, tmp_path: Path, overrides: list[str], words: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    says(mistake(run_script("tune", *TUNE, f"run_dir={run}", "trials=2", *overrides)), *words)
    assert not run.exists()


@pytest.mark.slow
def test_a_value_that_the_method_refuses_fails_its_trial_alone(run_script: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["trials=8", "space.fields.relu=[false,maybe]", "space.fields.head=[pull_back,elsewhere]"]
    code, _, err = run_script("tune", *TUNE, f"run_dir={run}", *more)
    assert code == 0, err
    manifest, table = json.loads((run / "manifest.json").read_text()), pd.read_csv(run / "trials.csv")
    assert (manifest["chosen"]["relu"], manifest["chosen"]["head"]) == (False, "pull_back")
    assert manifest["budget"]["failed"] == len(manifest["reasons"]) == int(table["value"].isna().sum()) > 0
    assert all("maybe" in why or "elsewhere" in why for why in manifest["reasons"].values())


@pytest.mark.parametrize(
    ("chosen", "side", "words"),
    [("test", "train", "chosen on the test classes"), ("last epoch", "test", "it was trained on 1 of the")],
)
def test_a_model_that_has_seen_the_test_classes_is_refused(
    run_script: Run, tmp_path: Path, chosen: str, side: str, words: str
) -> None:
    cfg = composed("tune", *SMALL)
    made, index = build(cfg.model), build(cfg.dataset).index
    seen = [int(index.loc[index["split"] == side, "label"].iloc[0])]
    split = {"dataset": "planted", "name": "any", "hash": split_hash(index), "train_classes": seen}
    save(made, tmp_path / "model.safetensors", {"chosen": chosen, "split": split})
    call = ("tune", *TUNE, "trials=2", f"model.checkpoint={tmp_path / 'model.safetensors'}")
    says(mistake(run_script(*call, f"run_dir={tmp_path / 'run'}")), "breaks the protocol", words)
