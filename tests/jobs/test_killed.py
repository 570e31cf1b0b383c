"""An evaluation in shards, a sweep and a study, killed half way: one status, one way to continue, the same results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import yaml

from sfam_bench.app.overrides import write_value
from sfam_bench.jobs.notes import read_notes
from sfam_bench.jobs.plan import Plan, read_plan
from sfam_bench.jobs.processes import is_alive
from sfam_bench.runs.reader import read_records
from tests.paths import ROOT, UNTRAINED
from tests.scripts import Run, ok

pytestmark = pytest.mark.slow

SMALL = [
    *("dataset.size=32", "dataset.train_per_class=2", "dataset.test_per_class=2", "model.image_size=32"),
    *("pairs.kinds=[partial_match]", "pairs.count=6", "batch_size=2", "steps.intervals=4", "passes.mode=eager"),
    UNTRAINED,
]
METHODS = ["explainer=[sfam,lafam]", "metric=[deletion,evidence]"]
CELLS = [*SMALL, *METHODS, "train.epochs=1", "train.batch_size=16"]
AXES = ["~sweep.train.loss", "sweep.train.pooling=[gap]", "sweep.evaluate.similarity=[cosine]"]
GRID = ["sweep=losses", *AXES, "report=false"]  # a training and an evaluation
KINDS = {  # the words that start each; its folder comes last
    "evaluation": ("submit", ["plan", *SMALL, *METHODS, "cluster.cpus=1", "shards=2"], "run_dir"),
    "sweep": ("sweep", [*GRID, f"more={write_value(CELLS)}"], "out"),
    "study": ("tune", [*SMALL, "metric=[evidence]", "objective=evidence_energy", "trials=10"], "run_dir"),
}
LOCAL = ["launcher=local", "workers=2", "cluster.cpus=1"]


def start(kind: str, root: Path, run_script: Run, planned: bool = False) -> "subprocess.Popen[Any]":
    """The driver of processes that do all jobs of a kind, in a process group of its own.

    A study may be planned here, as by a command that ended before its first trial: planning imports torch for seconds.
    """
    command, words, folder = KINDS[kind]
    if planned:
        with patch("sfam_bench.app.launching.LAUNCHERS", {"here": lambda *_: sys.exit(128 + signal.SIGTERM)}):
            assert run_script(command, *words, f"{folder}={root}")[0] == 128 + signal.SIGTERM
        command, words, folder = "submit", ["run", "wait=true"], "run_dir"
    if kind == "evaluation":  # of two shards, one is done here
        ok(run_script(command, *words, f"{folder}={root}"))
        ok(run_script("work", f"run_dir={root}", f"job={read_plan(root).jobs[0].id}"))
        command, words, folder = "submit", ["run", "wait=true"], "run_dir"
    return call(command, *words, f"{folder}={root}", *LOCAL, start_new_session=True, stderr=subprocess.DEVNULL)


def call(*words: str, **settings: Any) -> "subprocess.Popen[Any]":
    """A process of sfam-bench."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "sfam_bench", *words], env=environment, **settings)


def finish_uninterrupted(kind: str, root: Path, run_script: Run) -> None:
    """Do the same in this process, which nothing stops."""
    command, words, folder = KINDS[kind]
    if kind == "evaluation":
        ok(run_script("evaluate", *SMALL, *METHODS, f"run_dir={root}"))
    else:
        ok(run_script(command, *words, f"{folder}={root}"))


def read_results(kind: str, root: Path, run_script: Run) -> list[pd.DataFrame]:
    """What it found, without times."""
    if kind == "study":
        chosen = pd.DataFrame([yaml.safe_load((root / "chosen.yaml").read_text())["sfam"]])
        return [pd.read_csv(root / "trials.csv").drop(columns="seconds"), chosen]
    if kind == "sweep":
        cells = [job.id for job in read_plan(root).jobs if job.command[0] == "evaluate"]
        return [read_records(root / cell) for cell in cells]
    if (root / "plan.json").exists():
        ok(run_script("submit", "merge", f"run_dir={root}"))
    return [read_records(root)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_killed_half_way_is_continued_to_the_same_results(kind: str, run_script: Run, tmp_path: Path) -> None:
    root, count = tmp_path / "killed", 3 if kind == "study" else 1
    driver = start(kind, root, run_script)
    while len(read_notes(root, "done")) < count or not read_notes(root, "running"):
        assert driver.poll() is None
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)  # the driver and its worker
    driver.wait()
    done = read_notes(root, "done")
    jobs = len(read_plan(root).jobs)
    assert count <= len(done) < jobs
    word = Plan.word if kind == "evaluation" else "jobs"
    assert f"{jobs} {word}: {len(done)} done, {jobs - len(done)} waiting" in status(run_script, root)

    # A process spends seconds: of the three kinds, one is continued by processes
    launcher = LOCAL if kind == "evaluation" else ["launcher=here"]
    said = ok(run_script("submit", "run", f"run_dir={root}", "wait=true", *launcher))
    assert said.splitlines()[0] == f"{jobs - len(done)} of {jobs} {word} to do"
    assert f"{jobs} {word}: {jobs} done" in said
    assert f"{jobs} {word}: {jobs} done" in status(run_script, root)
    assert {name: read_notes(root, "done")[name] for name in done} == done  # nothing was done twice
    finish_uninterrupted(kind, tmp_path / "whole", run_script)
    pairs = zip(*(read_results(kind, each, run_script) for each in (root, tmp_path / "whole")), strict=True)
    for found, whole in pairs:
        keys = [name for name in ("explainer", "metric", "query_id", "reference_id") if name in whole]
        both = (frame.sort_values(keys, ignore_index=True) if keys else frame for frame in (found, whole))
        pd.testing.assert_frame_equal(*both, check_exact=True)


def status(run_script: Run, root: Path) -> str:
    return ok(run_script("submit", "status", f"run_dir={root}"))


def test_trials_of_a_worker_whose_driver_was_killed_are_waited_for(run_script: Run, tmp_path: Path) -> None:
    root = tmp_path / "study"
    driver = start("study", root, run_script, planned=True)
    while not read_notes(root, "done"):
        assert driver.poll() is None
        time.sleep(0.01)
    # Two notes at the moment between a trial and the next, of the same process
    (pid,) = {note["pid"] for note in read_notes(root, "running").values()}
    os.kill(pid, signal.SIGSTOP)  # so that it cannot end before it is seen
    driver.kill()
    driver.wait()
    assert all(map(is_alive, read_notes(root, "running").values()))
    assert " running" in status(run_script, root)
    run = call("submit", "run", f"run_dir={root}", "wait=true", *LOCAL, stdout=subprocess.PIPE, text=True)
    assert run.stdout
    lines = [run.stdout.readline(), run.stdout.readline()]
    os.kill(pid, signal.SIGCONT)
    said = run.communicate()[0]
    assert lines[1] == f"waiting for processes of an earlier run: {pid}\n"
    assert "11 jobs: 11 done" in said
    assert {found["pid"] for found in read_notes(root, "done").values()} == {pid}


@pytest.mark.parametrize("kind", ["sweep", "study"])
def test_what_is_cancelled_stops_and_waits(kind: str, run_script: Run, tmp_path: Path) -> None:
    root = tmp_path / "cancelled"
    driver = start(kind, root, run_script, planned=kind == "study")
    while not read_notes(root, "running"):
        assert driver.poll() is None
        time.sleep(0.01)
    said = ok(run_script("submit", "cancel", f"run_dir={root}"))
    assert "running" not in said
    assert "queued" not in said
    assert driver.wait(60) != 0
    found = read_notes(root, "running")
    assert not any(map(is_alive, found.values()))
    assert "waiting" in status(run_script, root)
