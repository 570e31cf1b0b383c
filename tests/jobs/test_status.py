"""How shards stand, told from files and processes alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfam_bench.jobs.job import DUE, Job, is_done
from sfam_bench.jobs.notes import claim, remove_note, write_note
from sfam_bench.jobs.plan import JobList, Plan, cut_shards
from sfam_bench.jobs.status import Status, format_duration


@pytest.fixture
def plan() -> Plan:
    fixed = {"key": "k", "code": "c", "folder": "/", "config": {}, "passes": {}, "left_out": {}}
    shards = cut_shards([4] * 6, 3, "k")
    return Plan(**fixed, batches=[4] * 6, rate=1.0, size=0.0, shards=shards, frozen={})  # type: ignore[arg-type]


END = {"seconds": 1.0}


def pieces(root: Path, *numbers: int, age: float = 0) -> None:
    (root / "records").mkdir(exist_ok=True)
    for number in numbers:
        path = root / "records" / f"{number:05d}.parquet"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)


def states(root: Path, plan: Plan, **queue: str) -> list[str]:
    return Status.of(root, plan, queue).jobs["state"].tolist()


def test_a_shard_is_done_when_its_word_and_all_its_pieces_are_there(tmp_path: Path, plan: Plan) -> None:
    first, second, _ = (shard.id for shard in plan.shards)
    assert states(tmp_path, plan) == ["waiting"] * 3
    pieces(tmp_path, 0, 1, 2, 3)
    assert states(tmp_path, plan) == ["waiting"] * 3
    write_note(tmp_path, "done", first, **END)
    write_note(tmp_path, "failures", second, error="one pair")
    assert states(tmp_path, plan) == ["done", "failed", "waiting"]
    assert Status.of(tmp_path, plan, {}).troubles == f"failed {second}: one pair"
    (tmp_path / "records" / "00001.parquet").rename(tmp_path / "records" / "00001.parquet.bad")
    assert states(tmp_path, plan) == ["waiting", "failed", "waiting"]


def test_what_a_scheduler_knows_is_no_failure_yet(tmp_path: Path, plan: Plan) -> None:
    first, second, third = (shard.id for shard in plan.shards)
    write_note(tmp_path, "failures", second, error="the node was lost")
    assert states(tmp_path, plan, **{first: "queued", second: "running"}) == ["queued", "running", "waiting"]
    assert states(tmp_path, plan, **{third: "running"}) == ["waiting", "failed", "running"]
    assert Status.of(tmp_path, plan, {first: "queued"}).live
    assert not Status.of(tmp_path, plan, {}).live


def test_a_job_is_done_with_its_note_and_all_its_results_alone(tmp_path: Path) -> None:
    job = Job("a", results=["one", "two"])
    write_note(tmp_path, "done", "a", **END)
    (tmp_path / "one").touch()
    assert not is_done(tmp_path, job)
    (tmp_path / "two").touch()
    assert is_done(tmp_path, job)
    remove_note(tmp_path, "done", "a")
    assert not is_done(tmp_path, job)


def test_a_killed_process_does_not_run(tmp_path: Path, plan: Plan) -> None:
    first = plan.shards[0].id
    claim(tmp_path, first)
    assert states(tmp_path, plan) == ["running", "waiting", "waiting"]
    remove_note(tmp_path, "running", first)
    assert states(tmp_path, plan) == ["waiting"] * 3
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_note(tmp_path, "running", first, pid=process.pid)
    while states(tmp_path, plan)[0] != "running":
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert states(tmp_path, plan)[0] == "waiting"


def test_a_shard_of_a_host_that_cannot_be_seen_is_elsewhere_until_that_is_said_to_be_gone(
    tmp_path: Path, plan: Plan
) -> None:
    first = plan.shards[0].id
    write_note(tmp_path, "running", first, host="another")
    now = Status.of(tmp_path, plan, {})
    assert now.of_state("elsewhere") == [first]
    assert not now.live
    assert not set(DUE) & {"elsewhere"}
    assert "1 elsewhere, 2 waiting" in now.line
    assert "of host another" in now.troubles
    assert "gone=[another]" in now.troubles
    assert Status.of(tmp_path, plan, {first: "running"}).of_state("running") == [first]
    assert Status.of(tmp_path, plan, {}, ended={first}).of_state("waiting") == [shard.id for shard in plan.shards]


def test_rate_and_remaining_time_by_hand(tmp_path: Path, plan: Plan) -> None:
    pieces(tmp_path, 0, age=2000)  # of an earlier run
    pieces(tmp_path, 1, age=100)
    pieces(tmp_path, 2, age=50)
    pieces(tmp_path, 3, age=10)
    now = Status.of(tmp_path, plan, {plan.shards[2].id: "running"})
    assert now.rate == pytest.approx(8 / 100, rel=0.05)  # two batches of four within 100 s
    assert now.line.endswith("4 of 6 batches; 0.1 pairs a second, 2 min to go")


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "0 s"), (89.0, "89 s"), (600.0, "10 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_a_job_waits_for_what_it_needs_and_says_what_of_that_failed(tmp_path: Path) -> None:
    plan = JobList("sweep", "/", [Job("a", results=["a/model"]), Job("b", ["a"]), Job("c")])
    assert states(tmp_path, plan, a="running", b="running") == ["running", "queued", "waiting"]
    write_note(tmp_path, "failures", "a", error="no such loss")
    now = Status.of(tmp_path, plan, {})
    assert now.jobs["state"].tolist() == ["failed", "waiting", "waiting"]
    assert now.troubles == "failed a: no such loss\nwaiting b: needs a, which failed"
    assert now.line == "3 jobs: 1 failed, 2 waiting"
    write_note(tmp_path, "done", "a", **END)
    assert states(tmp_path, plan)[0] == "failed"  # its note is there, its result is not
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model").touch()
    assert states(tmp_path, plan) == ["done", "waiting", "waiting"]
