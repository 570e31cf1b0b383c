"""Processes on this machine: pinned, begun again when they are killed, stopped when asked."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sfam_bench.jobs.local import ATTEMPTS, Claims, assign_cores, compute, start
from sfam_bench.jobs.processes import identity


def command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})
    assert assign_cores(1) == [[0, 1, 4, 5]]
    assert assign_cores(2) == [[0, 1], [4, 5]]
    assert assign_cores(3) == [[0], [1], [4]]
    assert assign_cores(5) == [[0], [1], [4], [5], [0]]


def test_each_process_has_its_cores_and_threads(tmp_path: Path) -> None:
    text = "import os, json; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], %r]))"
    assert compute({name: command(text % name) for name in "abc"}, 2, tmp_path / "logs") is None
    said = {name: json.loads((tmp_path / "logs" / f"{name}.log").read_text()) for name in "abc"}
    assert {name: found[2] for name, found in said.items()} == {"a": "a", "b": "b", "c": "c"}
    for mine, threads, _ in said.values():
        assert mine in assign_cores(2)
        assert threads == str(len(mine))


def test_a_killed_process_is_begun_again_and_a_failed_one_is_not(tmp_path: Path) -> None:
    note = "open({!r}, 'a').write('x'); "
    killed = note + "import os; os.kill(os.getpid(), 9)"
    failed = note + "raise SystemExit(1)"
    compute(
        {
            "killed": command(killed.format(str(tmp_path / "killed"))),
            "failed": command(failed.format(str(tmp_path / "failed"))),
        },
        1,
        tmp_path / "logs",
    )
    assert (tmp_path / "killed").read_text() == "x" * ATTEMPTS
    assert (tmp_path / "failed").read_text() == "x"


def test_gpus_are_dealt_out(tmp_path: Path) -> None:
    text = """
import os, time
print(os.environ["CUDA_VISIBLE_DEVICES"])
open({own!r}, "w").close()
while not os.path.exists({other!r}):  # so that both run at once
    time.sleep(0.01)
"""
    own, other = str(tmp_path / "a"), str(tmp_path / "b")
    both = {"a": command(text.format(own=own, other=other)), "b": command(text.format(own=other, other=own))}
    compute(both, 2, tmp_path / "logs", gpus=2)
    assert {(tmp_path / "logs" / f"{name}.log").read_text().strip() for name in "ab"} == {"0", "1"}


def test_a_signal_stops_all_and_begins_none(tmp_path: Path) -> None:
    text = f"import time; open({str(tmp_path / 'begun')!r}, 'a').write('x'); time.sleep(60)"

    def tick() -> None:
        if (tmp_path / "begun").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    assert compute({name: command(text) for name in "abc"}, 1, tmp_path / "logs", tick=tick) == signal.SIGTERM
    assert (tmp_path / "begun").read_text() == "x"


def test_a_process_begins_once_it_is_noted_and_keeps_its_identity(tmp_path: Path) -> None:
    noted: dict[str, dict[str, object]] = {}
    text = "import json, os, sfam_bench.jobs.processes as made; print(json.dumps(made.identity(os.getpid())))"
    claims = Claims(claim=lambda job, pid: noted.update({job: identity(pid)}))
    compute({name: command(text) for name in "ab"}, 1, tmp_path / "logs", claims=claims)
    assert {name: json.loads((tmp_path / "logs" / f"{name}.log").read_text()) for name in "ab"} == noted


def test_a_process_that_is_never_noted_ends_without_having_begun(tmp_path: Path) -> None:
    process = start(command(f"open({str(tmp_path / 'begun')!r}, 'w')"), tmp_path / "log", (0, assign_cores(1)[0]))
    assert process.stdin
    process.stdin.close()  # as when its driver is killed
    assert process.wait(20) != 0
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("completed", [True, False])
def test_a_shard_of_another_process_is_awaited_and_computed_only_where_that_did_not_complete_it(
    tmp_path: Path, completed: bool
) -> None:
    other = subprocess.Popen(command("import time; time.sleep(0.5)"))
    claims = Claims(
        taken=lambda job: job == "a" and other.poll() is None,
        done=lambda job: job == "a" and completed and other.poll() is not None,
    )
    text = "open({!r}, 'a').write('x')"
    made = {name: command(text.format(str(tmp_path / name))) for name in "ab"}
    assert compute(made, 2, tmp_path / "logs", claims=claims) is None
    assert other.poll() == 0
    assert (tmp_path / "a").exists() is not completed
    assert (tmp_path / "b").read_text() == "x"


DRIVER = """
import sys
from pathlib import Path
from sfam_bench.jobs.local import Claims, compute
from sfam_bench.jobs.notes import read_notes, write_note
from sfam_bench.jobs.processes import is_alive

root = Path(sys.argv[1])
(root / "done").mkdir(exist_ok=True)

def taken(shard):
    note = read_notes(root, "running", shard).get(shard)
    return note is not None and is_alive(note)

# says when it begins and ends, and whether anybody else has begun and not ended
TASK = '''
import os, sys, time
root, shard = sys.argv[1:]
try:
    os.close(os.open(f"{root}/{shard}.busy", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    open(f"{root}/twice", "a").write(shard)
open(f"{root}/{shard}.begun", "a").write("x")
time.sleep(1.5)
open(f"{root}/done/{shard}", "a").write("x")
os.unlink(f"{root}/{shard}.busy")
'''
commands = {shard: [sys.executable, "-c", TASK, str(root), shard] for shard in "abcd"}
ended = lambda shard: (root / "done" / shard).exists()
due = {shard: command for shard, command in commands.items() if not ended(shard)}
claims = Claims(taken, ended, claim=lambda shard, pid: write_note(root, "running", shard, pid))
sys.exit(compute(due, 2, root / "logs", claims=claims))
"""


@pytest.mark.slow
def test_no_shard_is_computed_twice_at_once_or_lost_however_often_the_driver_is_killed(tmp_path: Path) -> None:
    for kill in range(3):
        process = subprocess.Popen([*command(DRIVER), str(tmp_path)])
        begun = len(list(tmp_path.glob("*.begun")))
        while len(list(tmp_path.glob("*.begun"))) < min(4, begun + 2 - (kill > 0)):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    subprocess.run([*command(DRIVER), str(tmp_path)], check=True)
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == list("abcd")
    assert not (tmp_path / "twice").exists()
    assert [path.read_text() for path in (tmp_path / "done").iterdir()] == ["x"] * 4


def test_a_job_starts_once_what_it_needs_is_done_and_not_at_all_where_that_failed(tmp_path: Path) -> None:
    text = "import os, sys; os.path.exists({need!r}) or sys.exit('too early'); {fail} or open({own!r}, 'a').write('x')"
    fails, after = {"c"}, {"b": ["a"], "d": ["c"], "e": ["b", "d"]}
    needs = {name: str(tmp_path / after.get(name, [""])[0]) for name in "abcde"}
    commands = {
        name: command(
            text.format(need=needs[name], fail="sys.exit(1)" if name in fails else "0", own=str(tmp_path / name))
        )
        for name in "edcba"
    }
    claims = Claims(done=lambda name: (tmp_path / name).exists())
    assert compute(commands, 2, tmp_path / "logs", claims=claims, after=after) is None
    assert [name for name in "abcde" if (tmp_path / name).exists()] == ["a", "b"]
    assert (tmp_path / "b").read_text() == "x"
    assert not (tmp_path / "logs" / "d.log").exists()
