"""An evaluation in shards: the records of one process, whatever the cut and whatever befalls a task."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from sfam_bench.app.task import Task
from sfam_bench.core.files import write_json
from sfam_bench.jobs import local
from sfam_bench.jobs.notes import read_notes, remove_note, write_note
from sfam_bench.jobs.plan import Plan
from sfam_bench.report.page.pair_order import select_worst
from sfam_bench.runs.reader import image_path, read_image, read_records, read_run
from tests.jobs.damage import damaged
from tests.paths import ROOT
from tests.scripts import Outcome, Run, ok

SETTINGS = [
    *("dataset.size=32", "dataset.train_per_class=2", "dataset.test_per_class=2", "model.image_size=32"),
    *("pairs.kinds=[random_positive,hard_negative]", "pairs.count=5", "batch_size=2", "steps.intervals=4"),
    *(
        "explainer=[lafam,chance]",
        "metric=[deletion,retrieval,causal]",
        "maps.save=true",
        "maps.pictures=1",
        "passes.mode=eager",
        "cluster.cpus=1",
    ),
    "+explainer.poison={_target_: tests.cluster.poison.Poison}",
]
ALLOW = "allow=[tests.cluster]"
BATCHES = 6


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a worker goes to the folder of its plan


@pytest.fixture(scope="module")
def whole(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same evaluation in one process."""
    root = tmp_path_factory.mktemp("whole") / "run"
    ok(run_script("evaluate", *[text for text in SETTINGS if not text.startswith("cluster.")], f"run_dir={root}"))
    return root


@pytest.fixture(scope="module")
def planned(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of two batches, of which the first batch is computed."""
    root = tmp_path_factory.mktemp("planned") / "run"
    ok(run_script("submit", "plan", *SETTINGS, "shards=3", f"run_dir={root}"))
    return root


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Path:
    """A copy of the plan."""
    return shutil.copytree(planned, tmp_path / "run")


def refused(outcome: Outcome, *words: str, code: int = 2) -> None:
    assert outcome[0] == code, outcome[2]
    last = outcome[2].strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert [word for word in words if word not in last] == [], last


def work(run_script: Run, run: Path) -> list[Outcome]:
    return [run_script("work", ALLOW, f"run_dir={run}", f"job={shard.id}") for shard in Plan.read(run).shards]


def same(run: Path, whole: Path) -> None:
    keys = ["dataset", "model", "target", "explainer", "metric", "query_id", "reference_id"]
    found, wanted = (read_records(root).sort_values([*keys, "value"], ignore_index=True) for root in (run, whole))
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


def images(run: Path) -> set[str]:
    """The images of a run folder that belong to it by their digests."""
    found = read_run(run)
    sides = {image_id for side in ("query_id", "reference_id") for image_id in found.pairs[side]}
    there = {image_id for image_id in sides if image_path(run, image_id).exists()}
    return {image_id for image_id in there if read_image(run, found.manifest, image_id)}


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 64])  # three are those of the tests below
def test_any_number_of_shards_gives_the_records_of_one_process(
    run_script: Run, whole: Path, tmp_path: Path, shards: int
) -> None:
    run = tmp_path / "run"
    said = ok(run_script("submit", "plan", *SETTINGS, f"shards={shards}", f"run_dir={run}"))
    assert f"10 pairs in {BATCHES} batches, {min(shards, BATCHES)} shards" in said
    for outcome in work(run_script, run):
        ok(outcome)
    assert f"{min(shards, BATCHES)} done; {BATCHES} of {BATCHES} batches" in ok(
        run_script("submit", "status", f"run_dir={run}")
    )
    assert "images of the worst pairs are not stored" in ok(run_script("submit", "merge", f"run_dir={run}"))
    assert "worst pairs" not in ok(run_script("submit", "merge", ALLOW, f"run_dir={run}"))
    same(run, whole)
    assert images(run) == images(whole) >= {id for pair in select_worst(read_run(whole), 1) for id in pair}
    facts, wanted = read_run(run).manifest, read_run(whole).manifest
    assert {name: facts[name] for name in ("retrieval", "intervention")} == {
        name: wanted[name] for name in ("retrieval", "intervention")
    }
    assert facts["cost"].keys() == wanted["cost"].keys()
    assert wanted.keys() <= facts.keys()
    assert facts["core_hours"] > 0


@pytest.mark.slow
def test_processes_of_this_machine_compute_it(run_script: Run, run: Path, whole: Path) -> None:
    ok(run_script("work", ALLOW, f"run_dir={run}", f"job={Plan.read(run).shards[1].id}"))  # a process spends seconds
    said = ok(run_script("submit", "run", ALLOW, f"run_dir={run}", "workers=2", "wait=true"))
    assert said.splitlines() == ["2 of 3 shards to do", "3 shards: 3 done; 6 of 6 batches"]
    ok(run_script("submit", "merge", f"run_dir={run}"))
    same(run, whole)
    stamps = {path: path.stat().st_mtime_ns for path in (run / "records").iterdir()}
    assert "0 of 3 shards to do" in ok(run_script("submit", "run", ALLOW, f"run_dir={run}", "wait=true"))
    assert {path: path.stat().st_mtime_ns for path in (run / "records").iterdir()} == stamps


@pytest.mark.slow
def test_a_poisoned_pair_is_recorded_skipped_and_made_up_for(
    run_script: Run, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, plan = pd.read_parquet(run / "pairs.parquet")["query_id"].iloc[3], Plan.read(run)
    monkeypatch.setenv("POISON", poisoned)
    outcomes = work(run_script, run)
    assert [code for code, *_ in outcomes] == [2, 0, 0]
    refused(outcomes[0], "1 of 2 pairs could not be explained", poisoned, "the map is poisoned")
    (skipped,) = read_notes(run, "failures")[plan.shards[0].id]["skipped"]
    assert (skipped["batch"], skipped["query_id"]) == (1, poisoned)
    assert 'raise RuntimeError("the map' in skipped["traceback"]
    said = ok(run_script("submit", "status", f"run_dir={run}"))
    assert "2 done, 1 failed" in said
    assert poisoned in said
    refused(
        run_script("submit", "merge", f"run_dir={run}"), "pairs that could not be explained: 1", poisoned, "poisoned"
    )
    ok(run_script("submit", "merge", f"run_dir={run}", "partial=true"))
    partial = read_run(run, allow_unfinished=True)
    assert not partial.manifest["done"]
    wanted = read_records(whole)["query_id"]
    assert sorted(read_records(partial.root, allow_unfinished=True)["query_id"]) == sorted(wanted[wanted != poisoned])
    monkeypatch.delenv("POISON")
    for outcome in work(run_script, run):
        ok(outcome)
    assert not list((run / "failures").iterdir())
    ok(run_script("submit", "merge", f"run_dir={run}"))
    same(run, whole)


@pytest.mark.slow
def test_where_no_pair_can_be_explained_that_is_said_with_its_traceback(
    run_script: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON", "every")
    shard = Plan.read(run).shards[1].id
    refused(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"), "3 of 3 pairs could not be explained")
    note = read_notes(run, "failures")[shard]
    assert "the map is poisoned" in note["error"]
    assert 'raise RuntimeError("the map' in note["traceback"]
    assert "1 failed" in ok(run_script("submit", "status", f"run_dir={run}"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_stops_between_batches_and_the_next_turn_goes_on(
    run_script: Run, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    pairs, plan = pd.read_parquet(run / "pairs.parquet"), Plan.read(run)
    monkeypatch.setenv("SIGNAL", f"{pairs['query_id'].iloc[4]}:{int(number)}")  # of batch 2
    code, _, err = run_script("work", ALLOW, f"run_dir={run}", f"job={plan.shards[1].id}")
    assert code == 128 + number
    assert f"stopped by {number.name}: finished work is kept" in err
    assert sorted(path.stem for path in (run / "records").iterdir()) == ["00000", "00002"]
    stamp = (run / "records" / "00002.parquet").stat().st_mtime_ns
    monkeypatch.delenv("SIGNAL")
    for outcome in work(run_script, run):
        ok(outcome)
    assert (run / "records" / "00002.parquet").stat().st_mtime_ns == stamp
    ok(run_script("submit", "merge", f"run_dir={run}"))
    same(run, whole)


@pytest.mark.slow
def test_a_shard_whose_process_is_killed_again_and_again_is_not_awaited(
    run_script: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, (first, _, last) = pd.read_parquet(run / "pairs.parquet")["query_id"].iloc[4], Plan.read(run).shards
    for shard in (first, last):
        ok(run_script("work", ALLOW, f"run_dir={run}", f"job={shard.id}"))
    monkeypatch.setenv("SIGNAL", f"{query}:{int(signal.SIGKILL)}")
    monkeypatch.setattr(local, "ATTEMPTS", 1)
    refused(run_script("submit", "run", ALLOW, f"run_dir={run}", "wait=true"), "2 done, 1 waiting", "submit run")


@pytest.mark.slow
def test_other_code_other_weights_and_other_shards_are_refused(
    run_script: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = Plan.read(run).shards[1].id
    refused(run_script("work", ALLOW, f"run_dir={run}", "job=nobody"), "no job nobody")
    plan = json.loads((run / "plan.json").read_text())
    write_json(run / "plan.json", {**plan, "config": {**plan["config"], "seed": 7}})
    refused(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"), "no longer those of the plan")
    write_json(run / "plan.json", {**plan, "passes": {**plan["passes"], "device": "cuda"}})
    other = run_script("work", ALLOW, f"run_dir={run}", f"job={shard}")
    refused(other, "passes cannot be computed here as in the plan", 'device was "cuda", is "cpu"', "plan again")
    write_json(run / "plan.json", {**plan, "code": "another"})
    refused(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"), "the code", "another", "plan again")
    refused(run_script("submit", "run", ALLOW, f"run_dir={run}"), "the code", "another", "plan again")
    assert "the code" in read_notes(run, "failures")[shard]["error"]


@pytest.mark.slow
def test_what_a_plan_froze_is_proved_by_every_reader(run_script: Run, run: Path) -> None:
    shard = Plan.read(run).shards[1].id
    for name in ("gallery.safetensors", "pairs.parquet", "config.yaml"):
        whole = (run / name).read_bytes()
        (copy,) = damaged(whole, "flipped", 1)
        (run / name).write_bytes(copy)
        refused(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"), name, "not the file of the plan")
        refused(run_script("submit", "run", ALLOW, f"run_dir={run}"), name, "not the file of the plan")
        refused(run_script("submit", "merge", f"run_dir={run}"), name, "not the file of the plan")
        refused(run_script("submit", "plan", *SETTINGS, f"run_dir={run}"), name, "not the file of the plan")
        (run / name).write_bytes(whole)
    assert [path.stem for path in (run / "records").iterdir()] == ["00000"]


def test_a_plan_builds_nothing_of_packages_that_are_not_admitted(run_script: Run, run: Path) -> None:
    shard = Plan.read(run).shards[1].id
    words = ("plan.json: explainer.poison._target_", "tests.cluster.poison.Poison", "pass allow=[tests]")
    refused(run_script("work", f"run_dir={run}", f"job={shard}"), *words)
    refused(run_script("submit", "run", f"run_dir={run}"), *words)
    refused(run_script("work", "allow=[test]", f"run_dir={run}", f"job={shard}"), *words)


def test_a_plan_whose_folder_is_gone_is_refused(run_script: Run, run: Path, tmp_path: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    write_json(run / "plan.json", {**plan, "folder": str(tmp_path / "gone")})
    refused(run_script("work", ALLOW, f"run_dir={run}", f"job={plan['shards'][0]['id']}"), "cannot enter", "gone")


def test_a_folder_is_of_one_process_or_of_a_plan(run_script: Run, run: Path, whole: Path, tmp_path: Path) -> None:
    single = shutil.copytree(whole, tmp_path / "single")
    before = {path: path.read_bytes() for path in single.rglob("*") if path.is_file()}
    plan = ("submit", "plan", *SETTINGS, f"run_dir={single}")
    refused(run_script(*plan), "has a finished evaluation: choose another run_dir")
    manifest = json.loads((single / "manifest.json").read_text())
    write_json(single / "manifest.json", {**manifest, "done": False})
    refused(run_script(*plan), "an evaluation without a plan")
    write_json(single / "manifest.json", manifest)
    assert {path: path.read_bytes() for path in single.rglob("*") if path.is_file()} == before
    given = [text for text in SETTINGS if not text.startswith("cluster.")]
    refused(run_script("evaluate", *given, "resume=true", f"run_dir={run}"), "has a plan", "submit (plan, run)")
    with FileLock(tmp_path / ".plan.lock"):  # one that is being made
        refused(run_script("evaluate", *given, f"run_dir={tmp_path}"), "has a plan, made or begun")
    (single / ".plan.lock").touch()  # which a refused plan of an older version left
    refused(run_script("evaluate", *given, f"run_dir={single}"), "exists: pass resume=true")


@pytest.mark.slow
def test_two_plans_at_once_and_what_a_stopped_one_left(run_script: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".plan.lock"):
        refused(run_script("submit", "plan", *SETTINGS, f"run_dir={run}"), "another plan is being made")
    for name in ("records", "maps"):
        (run / name).mkdir()
    ok(run_script("submit", "plan", *SETTINGS, f"run_dir={run}"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("of: somebody\n")
    refused(run_script("submit", "plan", *SETTINGS, f"run_dir={other}"), "exists")
    assert (other / "config.yaml").read_text() == "of: somebody\n"


@pytest.mark.slow
def test_broken_pieces_are_set_aside_and_computed_anew(run_script: Run, run: Path, whole: Path) -> None:
    piece = run / "records" / "00000.parquet"
    piece.write_bytes(piece.read_bytes()[:-20])
    code, _, err = run_script("submit", "run", ALLOW, f"run_dir={run}", "launcher=here")
    assert code == 0, err
    assert "set aside, to be computed again" in err
    assert (run / "records" / "00000.parquet.bad").exists()
    ok(run_script("submit", "merge", f"run_dir={run}"))
    same(run, whole)


def test_a_plan_is_made_once(run_script: Run, run: Path) -> None:
    before = (run / "plan.json").read_text()
    said = ok(run_script("submit", "plan", *SETTINGS, "shards=2", f"run_dir={run}"))
    assert said.startswith("already planned: 10 pairs in 6 batches, 3 shards")
    other = run_script("submit", "plan", *SETTINGS, "seed=3", f"run_dir={run}")
    refused(other, "plan of another config", "seed was 0, is 3")
    assert (run / "plan.json").read_text() == before


@pytest.mark.slow
def test_mistakes_are_one_line(run_script: Run, run: Path, tmp_path: Path) -> None:
    where = f"run_dir={run}"
    refused(run_script("submit", "begin", where), "unknown verb 'begin'", "plan|run|status|merge|cancel")
    refused(run_script("submit"), "verb is not given")
    refused(run_script("submit", "run", ALLOW, where, "explainer=[sfam]"), "explainer is frozen in the plan")
    refused(run_script("submit", "run", ALLOW, where, "launcher=moon"), "launcher=moon: choose here, local, slurm")
    refused(run_script("submit", "run", ALLOW, where, "workers=-1", "wait=true"), "workers is -1", "at least 1")
    refused(run_script("submit", "status", f"run_dir={tmp_path}"), "has no plan", "submit plan")
    refused(run_script("submit", "merge", where), "missing batches: 5", "partial=true")
    refused(run_script("submit", "plan", *SETTINGS, "cluster.gpus=many", f"run_dir={tmp_path / 'x'}"), "cluster.gpus")
    with FileLock(run / "run.lock"):
        for word in ("wait=true", "wait=false"):
            refused(run_script("submit", "run", ALLOW, where, word), "another run is active")
    write_note(run, "launches", "background", os.getpid())
    refused(run_script("submit", "run", ALLOW, where), f"process {os.getpid()} computes this already")
    remove_note(run, "launches", "background")


def test_a_rehearsal_starts_nothing(run_script: Run, run: Path) -> None:
    lines = ok(run_script("submit", "run", ALLOW, f"run_dir={run}", "dry_run=true", "workers=2")).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("2 at a time: ") and " -m sfam_bench work " in line for line in lines)
    assert not (run / "logs").exists()


def test_a_task_of_slurm_hands_its_warning_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    handed: list[int] = []
    pairs, plan = pd.read_parquet(run / "pairs.parquet"), Plan.read(run)
    queries, task = pairs["query_id"], Task(str(run), plan.shards[1].id, ("tests",))
    before = [
        signal.signal(number, lambda number, _: handed.append(number)) for number in (signal.SIGUSR2, signal.SIGTERM)
    ]
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("SIGNAL", f"{queries.iloc[4]}:{int(signal.SIGUSR2)}")
        task()
        assert handed == [signal.SIGUSR2]
        assert not (run / "records" / "00003.parquet").exists()
        monkeypatch.setenv("SIGNAL", f"{queries.iloc[5]}:{int(signal.SIGTERM)}")  # does not stop it
        Task(str(run), plan.shards[2].id, ("tests",))()
        task.checkpoint().function()
        assert (run / "records" / "00003.parquet").exists()
        assert list(read_notes(run, "done")) == sorted(shard.id for shard in plan.shards[1:])
    finally:
        for number, handler in zip((signal.SIGUSR2, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
        torch.set_num_threads(threads)


def test_a_task_is_loaded_without_torch() -> None:
    """Signals that come while submitit unpickles it would kill the process."""
    code = "import sys, sfam_bench.app.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_this_process_does_one_shard_after_another_and_goes_on_past_a_failure(
    run_script: Run, run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("submit", "run", ALLOW, f"run_dir={run}", "launcher=here")
    before = Path.cwd()
    monkeypatch.setenv("POISON", pd.read_parquet(run / "pairs.parquet")["query_id"].iloc[3])
    refused(run_script(*call), "3 shards: 2 done, 1 failed")
    assert list(read_notes(run, "failures")) == [Plan.read(run).shards[0].id]
    monkeypatch.delenv("POISON")
    assert ok(run_script(*call)).splitlines() == ["1 of 3 shards to do", "3 shards: 3 done; 6 of 6 batches"]
    assert Path.cwd() == before
    ok(run_script("submit", "merge", f"run_dir={run}"))
    same(run, whole)
    facts = read_run(run).manifest["cost"]
    assert all(cost["milliseconds"] > 0 for cost in facts.values())


@pytest.mark.slow
def test_a_shard_that_loses_a_pair_in_a_later_turn_is_not_done(
    run_script: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = Plan.read(run).shards[0].id
    ok(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"))
    (run / "records" / "00001.parquet").unlink()
    monkeypatch.setenv("POISON", pd.read_parquet(run / "pairs.parquet")["query_id"].iloc[3])
    refused(run_script("work", ALLOW, f"run_dir={run}", f"job={shard}"), "could not be explained")
    assert "1 failed, 2 waiting" in ok(run_script("submit", "status", f"run_dir={run}"))
