"""A sweep: names that cannot collide, jobs that are done once, failures that leave their traceback, partial tables."""

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

from sfam_bench.app import cli
from sfam_bench.app.sweeping import LONGEST, Sweep, named, parsed, shares, written
from sfam_bench.core.errors import UserError
from sfam_bench.jobs.job import DONE, Job
from sfam_bench.report.tables.cells import write_cells
from sfam_bench.runs.reader import read_run
from sfam_bench.runs.store import RunStore

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
Run = Callable[..., tuple[int, str, str]]
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
    name = named(overrides, ["pooling", "loss.criterion.margin", "explainer"])
    assert re.fullmatch(r"gap-margin0\.2-sfam-lafam-[0-9a-f]{8}", name)
    assert named(overrides[::-1], ["pooling", "loss.criterion.margin", "explainer"]) == name
    assert named([*overrides, "cluster.cpus=4", "model.name='${cell:[]}'"], ["pooling"]) == named(
        overrides, ["pooling"]
    )
    for changed in ("experiment=cub", "seed=1", "+seed=1"):
        assert named([*overrides, changed], ["pooling"]) != named(overrides, ["pooling"])
    assert named([*overrides, "similarity=dot"], ["pooling"], ["similarity"]) == named(overrides, ["pooling"])
    assert named([*overrides, "pooling=gem"], ["pooling"]).startswith("gem-")  # the later counts


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
    assert parsed([f"key={written(value)}"]) == {"key": value}
    name = named([f"a.key={written(value)}"])
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert ".." not in Path(name).parts
    assert len(name) <= LONGEST + 9


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=6, unique_by=lambda pair: json.dumps(pair)))
@settings(max_examples=30, deadline=None)
def test_cells_that_differ_never_share_a_name(values: list[tuple[Any, Any]]) -> None:
    names = {named([f"a={written(first)}", f"b={written(second)}"]) for first, second in values}
    assert len(names) == len(values)


@pytest.mark.parametrize(
    "text", ["1e3", "null", "True", "nan", "it's", "a\\", "a\\'b", "a,b", "${x}", "", " a", "a=b", "é"]
)
def test_texts_that_look_like_something_else(text: str) -> None:
    assert parsed([f"key={written(text)}"]) == {"key": text}
    assert parsed([f"key=[{written(text)}]"]) == {"key": [text]}


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
    assert "pooling=gap,gem" in made.arguments("train", made.jobs("train"))
    due = [job for job in made.jobs("evaluate") if job.axes["pooling"] == "gem"]
    arguments = made.arguments("evaluate", due)
    assert {"pooling=gem", "similarity=cosine,dot", "pairs.count=8"} <= {*arguments}
    assert any(argument.startswith("model.checkpoint=") for argument in arguments)


def test_without_training_nothing_is_loaded(tmp_path: Path) -> None:
    made = sweep(tmp_path, "model.checkpoint=mine.safetensors", train=None)
    assert made.stages == ("evaluate",)
    assert [argument for argument in made.arguments("evaluate", []) if "checkpoint" in argument] == [
        "model.checkpoint=mine.safetensors"
    ]
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
        (["sweep=gamma", "launcher=carrier_pigeon"], ("launcher is 'carrier_pigeon'", "basic, joblib, slurm_cpu")),
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


# Launchers


def launcher(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate", [f"hydra/launcher={name}", *overrides], return_hydra_config=True)


def test_a_slurm_launcher_asks_for_what_the_config_says() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    asked = ["cluster.account=birds", "cluster.partition=long", "cluster.gpus=2", "cluster.cpus=6", "cluster.memory=32"]
    asked += ["cluster.minutes=90", "cluster.setup=[module load cuda]", "cluster.warning=45", "cluster.at_once=7"]
    for name, gpus in (("slurm_cpu", None), ("slurm_gpu", 2)):
        cfg = launcher(name, *asked)
        HydraConfig.instance().set_config(cfg)
        params = instantiate(cfg.hydra.launcher).params
        assert params["max_num_timeout"] > 0
        assert {key: params[key] for key in ("account", "partition", "gpus_per_node", "cpus_per_task", "mem_gb")} == {
            **{"account": "birds", "partition": "long", "gpus_per_node": gpus, "cpus_per_task": 6, "mem_gb": 32}
        }
        assert (params["timeout_min"], params["signal_delay_s"], params["array_parallelism"]) == (90, 45, 7)
        assert params["setup"] == ["module load cuda"]


@pytest.mark.filterwarnings(r"ignore:\s*.hydra.launcher.joblib. is validated")
def test_joblib_takes_as_many_jobs_as_fit_or_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    assert (shares(1), shares(2), shares(9), shares(64)) == (9, 4, 1, 1)
    monkeypatch.delenv("SFAM_BENCH_JOBS", raising=False)
    assert launcher("joblib", "cluster.cpus=4").hydra.launcher.n_jobs == 2
    monkeypatch.setenv("SFAM_BENCH_JOBS", "5")
    assert instantiate(launcher("joblib").hydra.launcher).joblib["n_jobs"] == 5


# Jobs


def of(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_a_multirun_goes_on_past_a_failure_and_keeps_its_traceback(run_script: Run, tmp_path: Path) -> None:
    call = ("evaluate", "--multirun", f"hydra.sweep.dir={tmp_path}", *SMALL)
    code, out, err = run_script(*call, "batch_size=0,8")
    assert (code, out) == (2, "")
    (failed,) = of(tmp_path / "failures").items()
    assert failed[0].startswith("evaluate-")
    assert failed[1]["error"] == "batch_size is 0: expected a whole number of at least 1"
    assert "in check_settings" in failed[1]["traceback"]
    assert "batch_size=0" in failed[1]["overrides"]
    assert "in check_settings" in err  # the log
    assert f"error: {failed[0]}: batch_size is 0" in err.splitlines()[-1]
    (done,) = tmp_path.glob("evaluate-*/done.json")
    assert done.parent.name != failed[0]
    assert {"overrides", "seconds", "code"} <= json.loads(done.read_text()).keys()
    assert "records of 3 pairs" in (done.parent / "job.log").read_text()


def job(folder: Path) -> DictConfig:
    """Pretend to be a job of a multirun in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = {"mode": "MULTIRUN", "job.name": "evaluate", "job.num": 0, "job.id": 0, "runtime.output_dir": folder}
        overrides = [*(f"hydra.{key}={value}" for key, value in own.items()), "pooling=gem"]
        cfg = compose("evaluate", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def test_a_job_is_done_once_in_its_own_folder(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        cli.once(lambda cfg: seen.append((cfg.run_dir, cfg.resume)), job(tmp_path / "evaluate-a"))
    assert seen == [(str(tmp_path / "evaluate-a"), True)]
    assert json.loads((tmp_path / "evaluate-a" / DONE).read_text())["overrides"] == ["pooling=gem"]


class Odd(Exception):
    """An error that cannot be carried from one process to another."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize("error", [UserError("mend it"), Odd(1, 2), MemoryError("no room"), OSError(28, "disk full")])
def test_a_failure_can_be_carried_and_a_success_removes_it(tmp_path: Path, error: Exception) -> None:
    def fails(cfg: DictConfig) -> None:
        raise error

    with pytest.raises(UserError) as raised:
        cli.once(fails, job(tmp_path / "evaluate-a"))
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # noqa: S301
    found = of(tmp_path / "failures")["evaluate-a"]
    assert found["error"]
    assert "in fails" in found["traceback"]
    assert found["host"]
    assert not (tmp_path / "evaluate-a" / DONE).exists()
    cli.once(lambda cfg: None, job(tmp_path / "evaluate-a"))
    assert of(tmp_path / "failures") == {}
    assert (tmp_path / "evaluate-a" / DONE).exists()


def test_of_a_job_that_was_started_twice_the_second_waits_for_the_first(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with cli.locked(tmp_path):
            order.append("second")

    with cli.locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_signal_that_ended_a_job_is_handed_to_who_listened_before(tmp_path: Path) -> None:
    heard: list[int] = []

    def stops(cfg: DictConfig) -> None:
        sys.exit(128 + signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit):
            cli.once(stops, job(tmp_path / "evaluate-a"))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]
    assert Job("evaluate-a", tmp_path).state == "missing"


def test_a_job_that_was_killed_before_its_manifest_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begins(cfg: DictConfig) -> None:
        RunStore.create(Path(cfg.run_dir), {}, {}, cfg.resume)

    class Killed(BaseException): ...

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "write_manifest", kill)
        with pytest.raises(Killed):
            cli.once(begins, job(tmp_path / "evaluate-a"))
    assert (tmp_path / "evaluate-a" / "records").is_dir()
    assert Job("evaluate-a", tmp_path).state == "missing"
    cli.once(begins, job(tmp_path / "evaluate-a"))
    assert Job("evaluate-a", tmp_path).done


def test_an_evaluation_says_which_training_it_lacks(tmp_path: Path) -> None:
    training = Job("train-gap-1", tmp_path)
    model = {"checkpoint": str(training.folder / "model.safetensors")}
    cfg = OmegaConf.create({"run_dir": str(tmp_path / "evaluate-gap-1"), "model": model})
    with pytest.raises(UserError, match=r"its training train-gap-1 is missing: start the sweep again"):
        cli.trained(cfg)
    training.failed({"error": "no such loss"})
    with pytest.raises(UserError, match=r"its training train-gap-1 is failed: no such loss"):
        cli.trained(cfg)
    training.folder.mkdir()
    training.finished({})
    cli.trained(cfg)
    cli.trained(OmegaConf.create({"run_dir": "a", "model": {"checkpoint": "b/train-x/model.safetensors"}}))


# The table


def finished(root: Path, name: str, values: dict[str, list[float]], axes: dict[str, Any]) -> Job:
    """A job with a run folder of two pairs of two classes each, and one metric."""
    made = Job(name, root, axes)
    store = RunStore.create(made.folder, {"name": name}, {"metrics": {"iou_50": {"higher_is_better": True}}})
    ids = [f"q{number}" for number in range(4)]
    where = {"query_id": ids, "reference_id": ids}
    facts = {"kind": "random_positive", "score": 0.5, "query_class": "x"}
    store.write_pairs(pd.DataFrame({**where, "query_label": [0, 0, 1, 1], **facts}))
    of_all = {"dataset": "toy", "model": name, "target": "similarity", "metric": "iou_50", "flag": ""}
    store.write_shard(
        0, pd.concat([pd.DataFrame({**where, **of_all, "explainer": k, "value": v}) for k, v in values.items()])
    )
    store.finish(shards=1)
    made.finished({})
    return made


def test_the_table_has_a_row_a_cell_and_names_first_what_is_missing(tmp_path: Path) -> None:
    values = {"sfam": [0.1, 0.3, 0.5, 0.9], "lafam": [0.1, 0.1, 0.1, 0.1]}
    cells = [finished(tmp_path, "evaluate-a", values, {"loss": "a"}), Job("evaluate-b", tmp_path, {"loss": "b"})]
    cells += [Job("evaluate-c", tmp_path, {"loss": "c"}), finished(tmp_path, "evaluate-d", values, {"loss": "d"})]
    cells[1].failed({"error": "cannot read x|y"})
    (tmp_path / "evaluate-d" / "records" / "00000.parquet").write_bytes(b"half")
    training = Job("train-a", tmp_path)
    done, undone = write_cells("mine", {"train": [training], "evaluate": cells}, tmp_path)
    assert [one.id for one in done] == ["evaluate-a"]
    assert [one.id for one in undone] == ["train-a", "evaluate-b", "evaluate-c", "evaluate-d"]
    with (tmp_path / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["loss"], row["state"]) for row in rows] == [
        *[("evaluate-a", "a", "done"), ("evaluate-b", "b", "failed"), ("evaluate-c", "c", "missing")],
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
        "- train: 1 cells: 0 done, 0 failed, 1 missing",
        "- evaluate: 4 cells: 1 done, 2 failed, 1 missing",
        "- not done: train-a: missing",
        r"- not done: evaluate-b: failed: cannot read x\|y",
        "- not done: evaluate-c: missing",
    ]
    assert "| evaluate-a | 0.45 [" in page  # without a mark, since two classes give none
    assert "| evaluate-b | failed | failed |" in page
    assert "| evaluate-c | missing | missing |" in page


def test_a_table_of_nothing_names_all(tmp_path: Path) -> None:
    cells = [Job("evaluate-a", tmp_path, {}), Job("evaluate-b", tmp_path, {})]
    (tmp_path / "failures").mkdir()
    cells[0].failure.write_text("{half")
    done, undone = write_cells("mine", {"evaluate": cells}, tmp_path)
    assert (done, undone) == ([], cells)
    page = (tmp_path / "cells.md").read_text()
    assert f"not done: evaluate-a: failed: see {cells[0].failure}" in page
    assert "not done: evaluate-b: missing" in page


# Whole sweeps


def moments(jobs: Sequence[Job]) -> dict[str, int]:
    """When each file of these jobs was written last; the log says that a job was asked again."""
    files = [path for one in jobs for path in one.folder.rglob("*") if path.is_file() and path.name != "job.log"]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_failed_cells_are_named_and_made_alone_once_the_cause_is_mended(
    run_script: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setenv("SFAM_BENCH_JOBS", "2")
    out = tmp_path / "out"
    made = sweep(out, *SMALL)
    trainings, cells = (made.jobs(stage) for stage in made.stages)
    call = ("sweep", "sweep=losses", *GRID, f"out={out}", f"more={written(SMALL)}", "report=false")
    # both models are trained, then one is cut short on the disk
    assert run_script("train", *made.arguments("train", trainings))[0] == 0
    assert all(one.done for one in trainings)
    model = trainings[1].folder / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])

    code, printed, err = run_script(*call, "launcher=joblib")
    assert code == 1
    assert "train: 2 cells, 0 to do" in printed
    assert "error: 2 of 4 cells are missing" in err
    assert "Traceback" in capfd.readouterr().err  # of the process that joblib started
    bad = [one for one in cells if one.axes["pooling"] == "gem"]
    assert [one.state for one in cells] == ["done", "done", "failed", "failed"]
    for one in bad:
        failure = of(out / "failures")[one.id]
        assert str(model) in failure["error"]
        assert "in read_state" in failure["traceback"]
    top = (out / "cells.md").read_text().split("## Cells")[0]
    assert [one.id for one in cells if one.id in top] == [one.id for one in bad]

    good = [*trainings[:1], *cells[:2]]
    before = moments(good)
    shutil.rmtree(trainings[1].folder)
    code, printed, _ = run_script(*call)
    assert code == 0
    assert "train: 2 cells, 1 to do" in printed
    assert "evaluate: 4 cells, 2 to do" in printed
    assert moments(good) == before
    assert all(one.done for one in cells)
    assert of(out / "failures") == {}
    assert "not done" not in (out / "cells.md").read_text()
    assert len({tuple(read_run(one.folder).records["model"].unique()) for one in cells}) == 4

    before = moments([*trainings, *cells])
    code, printed, _ = run_script(*call)
    assert code == 0
    assert "evaluate: 4 cells, 0 to do" in printed
    assert moments([*trainings, *cells]) == before


def test_a_killed_sweep_goes_on_where_it_was(run_script: Run, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    made = sweep(tmp_path / "out", *SMALL, "batch_size=1", train=None, evaluate={"seed": [0, 1, 2, 3]})
    cells = made.jobs("evaluate")
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py"), *made.arguments("evaluate", cells, "joblib")]
    environment = {**os.environ, "SFAM_BENCH_JOBS": "2", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    while not any(one.done for one in cells):
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = [one for one in cells if one.done]
    assert 0 < len(done) < len(cells)
    assert {one.state for one in cells} == {"done", "missing"}
    _, undone = write_cells("mine", {"evaluate": cells}, made.out)
    assert undone == [one for one in cells if one not in done]
    before = moments(done)
    assert run_script("evaluate", *made.arguments("evaluate", undone))[0] == 0
    assert all(one.done for one in cells)
    assert moments(done) == before
    assert [len(read_run(one.folder).pairs) for one in cells] == [3, 3, 3, 3]
