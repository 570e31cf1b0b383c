"""A sweep: names that cannot collide, cells that are done once, failures that leave their traceback, partial tables."""

import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from sfam_bench.app import cells as celling
from sfam_bench.app.overrides import write_value
from sfam_bench.app.sweeping import LONGEST, Sweep, cell_name, parse_overrides
from sfam_bench.app.work import work
from sfam_bench.core.errors import UserError
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.notes import read_notes, write_note
from sfam_bench.jobs.plan import JobList
from sfam_bench.jobs.status import Status
from sfam_bench.report.tables.cells import write_cells
from sfam_bench.runs.reader import read_records, read_run
from sfam_bench.runs.store import RunStore
from tests.paths import CONF, UNTRAINED
from tests.scripts import Run

NAMES = sorted(file.stem for file in (CONF / "sweep").glob("*.yaml"))
SMALL = [
    *("dataset.size=32", "dataset.train_per_class=1", "dataset.test_per_class=2", "model.image_size=32"),
    *(
        "train.epochs=1",
        "train.batch_size=16",
        "pairs.count=3",
        "pairs.kinds=[partial_match]",
        "explainer=[sfam,lafam]",
        "metric=[selectivity]",
    ),
]
GRID = "~sweep.train.loss", "sweep.evaluate.similarity=[cosine,dot]"  # of losses.yaml, what CONFIG says
CONFIG = {
    "experiment": "planted_methods",
    "train": {"pooling": ["gap", "gem"]},
    "evaluate": {"similarity": ["cosine", "dot"]},
}


def sweep(out: Path, *more: str, **changed: Any) -> Sweep:
    return Sweep.of("losses", {**CONFIG, **changed}, out, more)


# Names


def test_a_name_says_the_axes_and_hangs_on_all_that_matters() -> None:
    overrides = ["experiment=planted", "pooling=gap", "loss.criterion.margin=0.2", "explainer=[sfam,lafam]"]
    name = cell_name(overrides, ["pooling", "loss.criterion.margin", "explainer"])
    assert re.fullmatch(r"gap-margin0\.2-sfam-lafam-[0-9a-f]{8}", name)
    assert cell_name(overrides[::-1], ["pooling", "loss.criterion.margin", "explainer"]) == name
    assert cell_name([*overrides, "cluster.cpus=4"], ["pooling"]) == cell_name(overrides, ["pooling"])
    for changed in ("experiment=cub", "seed=1", "+seed=1"):
        assert cell_name([*overrides, changed], ["pooling"]) != cell_name(overrides, ["pooling"])
    assert cell_name([*overrides, "pooling=gem"], ["pooling"]).startswith("gem-")  # the later counts


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**6)
    | st.floats(-9, 9).filter(bool)
    | st.text(st.characters(codec="ascii", min_codepoint=32)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=2),
    max_leaves=4,
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_a_value_reaches_hydra_as_it_is_and_its_name_is_safe(value: Any) -> None:
    assert parse_overrides([f"key={write_value(value)}"]) == {"key": value}
    name = cell_name([f"a.key={write_value(value)}"])
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert ".." not in Path(name).parts
    assert len(name) <= LONGEST + 9


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=6, unique_by=lambda pair: json.dumps(pair)))
@settings(max_examples=30, deadline=None)
def test_cells_that_differ_never_share_a_name(values: list[tuple[Any, Any]]) -> None:
    names = {cell_name([f"a={write_value(first)}", f"b={write_value(second)}"]) for first, second in values}
    assert len(names) == len(values)


@pytest.mark.parametrize(
    "text", ["1e3", "null", "True", "nan", "it's", "a\\", "a\\'b", "a,b", "${x}", "", " a", "a=b", "é"]
)
def test_texts_that_look_like_something_else(text: str) -> None:
    assert parse_overrides([f"key={write_value(text)}"]) == {"key": text}
    assert parse_overrides([f"key=[{write_value(text)}]"]) == {"key": [text]}


# Grids


@pytest.mark.parametrize("name", NAMES)
def test_every_sweep_names_groups_and_files_that_there_are(name: str, tmp_path: Path) -> None:
    config = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())
    made = Sweep.of(name, config, tmp_path)
    for stage in made.stages:
        jobs = made.jobs(stage)
        assert len({job.id for job in jobs}) == len(jobs)
        for key, values in made.axes(stage).items():
            assert all((CONF / key / f"{value}.yaml").is_file() for value in values)
    counts = re.search(r"(?:(\d+) trainings, )?(\d+) evaluations", (CONF / "sweep" / f"{name}.yaml").read_text())
    assert counts
    assert [str(len(made.jobs(stage))) for stage in made.stages] == [number for number in counts.groups() if number]


def test_a_grid_is_a_product_and_an_evaluation_knows_its_training(tmp_path: Path) -> None:
    made = sweep(tmp_path, "pairs.count=8")
    assert [job.axes for job in made.jobs("train")] == [{"pooling": "gap"}, {"pooling": "gem"}]
    assert [tuple(job.axes.values()) for job in made.jobs("evaluate")] == [
        *[("gap", "cosine"), ("gap", "dot"), ("gem", "cosine"), ("gem", "dot")]
    ]
    trainings, cells = made.jobs("train"), made.jobs("evaluate")
    assert [job.after for job in cells] == [[trainings[0].id]] * 2 + [[trainings[1].id]] * 2
    assert [job.after for job in trainings] == [[], []]
    assert cells[3].command[0] == "evaluate"
    assert {"pooling=gem", "similarity=dot", "pairs.count=8"} <= {*cells[3].command}
    assert [job.id for job in made.plan().jobs] == [job.id for job in [*trainings, *cells]]


def test_without_training_nothing_is_loaded(tmp_path: Path) -> None:
    made = sweep(tmp_path, "model.checkpoint=mine.safetensors", train=None)
    assert made.stages == ("evaluate",)
    for job in made.jobs("evaluate"):
        assert not job.after
        assert [word for word in job.command if "checkpoint" in word] == ["model.checkpoint=mine.safetensors"]
    assert len(sweep(tmp_path, train={}, evaluate={}).jobs("evaluate")) == 1


MISTAKES = {
    "a key": ({"loss": ["triplet"]}, "no key 'loss'"),
    "no list": ({"train": {"loss": "triplet"}}, "train.loss is 'triplet': expected a list"),
    "an empty list": ({"evaluate": {"similarity": []}}, "evaluate.similarity is []"),
    "a value twice": ({"train": {"pooling": ["gap", "gap"]}}, "names a value twice"),
    "no mapping": ({"fixed": ["a=b"]}, "fixed is ['a=b']: expected setting: value"),
    "an axis twice": ({"evaluate": {"pooling": ["gap"]}}, "pooling is an axis and set once more"),
    "an axis fixed": ({"fixed": {"similarity": "dot"}}, "similarity is an axis and set once more"),
    "its own": ({"fixed": {"run_dir": "here"}}, "sets run_dir itself"),
    "its models": ({"fixed": {"model.checkpoint": "here"}}, "sets model.checkpoint itself"),
}


@pytest.mark.parametrize(("changed", "words"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_sweep_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        sweep(tmp_path, **changed)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep=nonsense"], ("no sweep 'nonsense'", "gamma", "losses")),
        ([], ("sweep=",)),
        (["sweep=gamma", "launcher=carrier_pigeon"], ("launcher=carrier_pigeon", "here, local, slurm")),
        (["sweep=gamma", "lancher=here"], ("no setting 'lancher'", "did you mean launcher?")),
        (["sweep=gamma", "cluster.cpus=0"], ("cpus", "at least 1")),
        (["sweep=gamma", "more=['pooling=gap']"], ("pooling is an axis",)),
        (["sweep=gamma", "more=['pairs.count']"], ("cannot read the override", "KEY=VALUE")),
    ],
)
def test_a_mistake_is_one_line(run_script: Run, tmp_path: Path, overrides: list[str], words: tuple[str, ...]) -> None:
    code, out, err = run_script("sweep", *overrides, f"out={tmp_path / 'out'}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert [word for word in words if word not in err] == []
    assert not (tmp_path / "out").exists()


# Cells


def failures(root: Path) -> dict[str, dict[str, Any]]:
    return read_notes(root, "failures")


def planned(root: Path, *overrides: str) -> JobList:
    """A sweep of a single evaluation."""
    plan = sweep(root, *SMALL, UNTRAINED, *overrides, train=None, evaluate={}).plan()
    root.mkdir()
    plan.write(root)
    return plan


def test_a_multirun_is_refused(run_script: Run) -> None:
    code, out, err = run_script("evaluate", "--multirun", "seed=0,1")
    assert (code, out) == (2, "")
    assert "sfam-bench sweep" in err


@pytest.mark.slow
def test_a_cell_that_fails_leaves_its_traceback_and_a_success_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    (job,) = planned(root).jobs

    def fail(cfg: DictConfig) -> None:
        raise OSError(28, "disk full")

    with monkeypatch.context() as patched:
        patched.setattr("sfam_bench.app.commands.evaluate.main", fail)
        with pytest.raises(OSError, match="disk full"):
            work(root, job.id)
    found = failures(root)[job.id]
    assert "disk full" in found["error"]
    assert "in fail" in found["traceback"]
    assert found["host"]
    assert not read_notes(root, "done")
    assert work(root, job.id) is None
    assert failures(root) == read_notes(root, "running") == {}
    assert read_notes(root, "done")[job.id]["code"]
    assert len(read_run(root / job.id).pairs) == 3


def test_a_signal_that_ended_a_training_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "out"
    (job,) = planned(root).jobs
    monkeypatch.setattr("sfam_bench.app.commands.evaluate.main", lambda cfg: sys.exit(128 + signal.SIGUSR2))
    assert work(root, job.id) == signal.SIGUSR2
    assert Status.of(root, JobList("sweep", "/", [job]), {}).of_state("waiting") == [job.id]


@pytest.mark.slow
def test_a_cell_that_was_killed_before_its_manifest_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    (job,) = planned(root).jobs

    class Killed(BaseException): ...

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "write_manifest", kill)
        with pytest.raises(Killed):
            work(root, job.id)
    assert (root / job.id / "records").is_dir()
    assert not failures(root)
    assert work(root, job.id) is None


def test_an_evaluation_says_which_training_it_lacks(tmp_path: Path) -> None:
    plan = sweep(tmp_path).plan()
    plan.write(tmp_path)
    cell = plan.jobs[-1]
    with pytest.raises(UserError, match=f"{cell.id} needs {cell.after[0]}, which is not done"):
        work(tmp_path, cell.id)
    assert not failures(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["data", "download=cub"], "would run 'data'"),
        (["evaluate", "+explainer.own={_target_: os.system}"], "os.system"),
        (["evaluate", "explainer.sfam._target_=subprocess.Popen"], "subprocess.Popen"),
        (["evaluate", "seed=0,1"], "0,1"),
    ],
)
def test_a_plan_of_somebody_else_runs_nothing_that_is_not_admitted(
    tmp_path: Path, command: list[str], words: str
) -> None:
    JobList("sweep", str(tmp_path), [Job("evaluate-a", command=command)]).write(tmp_path)
    with pytest.raises(Exception, match=re.escape(words)):
        work(tmp_path, "evaluate-a")
    assert words in failures(tmp_path)["evaluate-a"]["error"]
    assert not (tmp_path / "evaluate-a").exists()


def test_the_config_of_a_cell_is_that_of_its_command_alone(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        outer = compose("sweep", ["sweep=gamma"], return_hydra_config=True)
        HydraConfig.instance().set_config(outer)
        with celling.compose_command("evaluate", ["seed=7", "loss=triplet"]) as cfg:
            assert cfg.seed == 7
            assert HydraConfig.get().runtime.choices["loss"] == "triplet"
        assert HydraConfig.get().runtime.choices["sweep"] == "gamma"
        assert compose("sweep", ["sweep=losses"]).sweep.train


# The table


def write(root: Path, jobs: list[Job]) -> tuple[list[str], list[str]]:
    plan = JobList("sweep", "/", jobs, facts={"name": "mine"})
    return write_cells(root, plan, Status.of(root, plan, {}))


def finished(root: Path, name: str, values: dict[str, list[float]], axes: dict[str, Any]) -> Job:
    """A cell with a run folder of two pairs of two classes each, and one metric."""
    store = RunStore.create(root / name, {"name": name}, {"metrics": {"iou_50": {"higher_is_better": True}}})
    ids = [f"q{number}" for number in range(4)]
    where = {"query_id": ids, "reference_id": ids}
    facts = {"kind": "random_positive", "score": 0.5, "query_class": "x"}
    store.write_pairs(pd.DataFrame({**where, "query_label": [0, 0, 1, 1], **facts}))
    of_all = {"dataset": "toy", "model": name, "target": "similarity", "metric": "iou_50", "flag": ""}
    store.write_chunk(
        0, pd.concat([pd.DataFrame({**where, **of_all, "explainer": k, "value": v}) for k, v in values.items()])
    )
    store.finish(shards=1)
    write_note(root, "done", name, seconds=1.0)
    return Job(name, command=["evaluate"], axes=axes)


def test_the_table_has_a_row_a_cell_and_names_first_what_is_missing(tmp_path: Path) -> None:
    values = {"sfam": [0.1, 0.3, 0.5, 0.9], "lafam": [0.1, 0.1, 0.1, 0.1]}
    cells = [
        finished(tmp_path, "evaluate-a", values, {"loss": "a"}),
        Job("evaluate-b", command=["evaluate"], axes={"loss": "b"}),
    ]
    cells += [
        Job("evaluate-c", command=["evaluate"], axes={"loss": "c"}),
        finished(tmp_path, "evaluate-d", values, {"loss": "d"}),
    ]
    write_note(tmp_path, "failures", "evaluate-b", error="cannot read x|y")
    (tmp_path / "evaluate-d" / "records" / "00000.parquet").write_bytes(b"half")
    done, found = write(tmp_path, [Job("train-a", command=["train"]), *cells])
    assert done == ["evaluate-a"]
    assert found == ["evaluate-a", "evaluate-b", "evaluate-c", "evaluate-d"]
    with (tmp_path / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["loss"], row["state"]) for row in rows] == [
        *[("evaluate-a", "a", "done"), ("evaluate-b", "b", "failed"), ("evaluate-c", "c", "waiting")],
        ("evaluate-d", "d", "failed"),
    ]
    assert float(rows[0]["iou_50 sfam"]) == pytest.approx(0.45)
    assert float(rows[0]["iou_50 sfam low"]) <= 0.2  # two classes, of means 0.2 and 0.7
    assert float(rows[0]["iou_50 sfam high"]) >= 0.7
    assert rows[1]["error"] == "cannot read x|y"
    assert "cannot be read" in rows[3]["error"]
    page = (tmp_path / "cells.md").read_text()
    assert page.splitlines()[:7] == [
        "# Sweep mine",
        "",
        "- train: 1 cells: 1 waiting",
        "- evaluate: 4 cells: 1 done, 2 failed, 1 waiting",
        "- not done: train-a: waiting",
        r"- not done: evaluate-b: failed: cannot read x\|y",
        "- not done: evaluate-c: waiting",
    ]
    assert "| evaluate-a | 0.45 [" in page  # without a mark, since two classes give none
    assert "| evaluate-b | failed | failed |" in page
    assert "| evaluate-c | waiting | waiting |" in page


def test_a_table_of_nothing_names_all(tmp_path: Path) -> None:
    cells = [Job("evaluate-a", command=["evaluate"]), Job("evaluate-b", command=["evaluate"])]
    write_note(tmp_path, "failures", "evaluate-a", error="no such loss")
    done, found = write(tmp_path, cells)
    assert (done, found) == ([], ["evaluate-a", "evaluate-b"])
    page = (tmp_path / "cells.md").read_text()
    assert "not done: evaluate-a: failed: no such loss" in page
    assert "not done: evaluate-b: waiting" in page


# Whole sweeps


def moments(root: Path, jobs: Sequence[Job]) -> dict[str, int]:
    """When each file of these cells was written last."""
    files = [path for one in jobs for path in (root / one.id).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_failed_cells_are_named_and_made_alone_once_the_cause_is_corrected(run_script: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = sweep(out, *SMALL)
    trainings, cells = (made.jobs(stage) for stage in made.stages)
    few = sweep(out, *SMALL, evaluate={"similarity": ["cosine"]})  # a process spends seconds
    first = few.jobs("evaluate")
    bad = [one for one in first if one.axes["pooling"] == "gem"]
    call = (
        "sweep",
        "sweep=losses",
        *GRID,
        f"out={out}",
        f"more={write_value(SMALL)}",
        "report=false",
        "cluster.cpus=1",
    )
    # all is done but one evaluation, whose model is then cut short on the disk
    out.mkdir()
    few.plan().write(out)
    for one in [*trainings, *first]:
        if one not in bad:
            assert work(out, one.id) is None
    model = out / trainings[1].id / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])

    code, printed, err = run_script(*call, "sweep.evaluate.similarity=[cosine]", "launcher=local", "workers=2")
    assert code == 1
    assert "1 of 4 jobs to do" in printed
    assert "error: 1 of 2 cells are not done" in err
    assert {*failures(out)} == {one.id for one in bad}
    for one in bad:
        assert str(model) in failures(out)[one.id]["error"]
        assert "in read_state" in failures(out)[one.id]["traceback"]
        assert str(model) in (out / "logs" / f"{one.id}.log").read_text()
    top = (out / "cells.md").read_text().split("## Cells")[0]
    assert [one.id for one in first if one.id in top] == [one.id for one in bad]

    good = [*trainings[:1], first[0]]
    before = moments(out, good)
    shutil.rmtree(out / trainings[1].id)
    code, printed, _ = run_script(*call)
    assert code == 0
    assert "4 of 6 jobs to do" in printed
    assert moments(out, good) == before
    assert failures(out) == {}
    assert "not done" not in (out / "cells.md").read_text()
    assert len({tuple(read_records(out / one.id)["model"].unique()) for one in cells}) == 4

    before = moments(out, [*trainings, *cells])
    code, printed, _ = run_script(*call)
    assert code == 0
    assert "0 of 6 jobs to do" in printed
    assert moments(out, [*trainings, *cells]) == before
