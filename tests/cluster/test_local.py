"""Processes on this machine: pinned, begun again when they are killed, stopped when asked."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from sfam_bench.cluster.local import ATTEMPTS, compute, cores


def command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5})
    assert cores(1) == [[0, 1, 4, 5]]
    assert cores(2) == [[0, 1], [4, 5]]
    assert cores(3) == [[0], [1], [4]]
    assert cores(5) == [[0], [1], [4], [5], [0]]


def test_each_process_has_its_cores_and_threads(tmp_path: Path) -> None:
    text = "import os, json; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], %r]))"
    assert compute({name: command(text % name) for name in "abc"}, 2, tmp_path / "logs") is None
    said = {name: json.loads((tmp_path / "logs" / f"{name}.log").read_text()) for name in "abc"}
    assert {name: found[2] for name, found in said.items()} == {"a": "a", "b": "b", "c": "c"}
    for mine, threads, _ in said.values():
        assert mine in cores(2)
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
    text = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.3)"
    compute({name: command(text) for name in "ab"}, 2, tmp_path / "logs", gpus=2)
    assert {(tmp_path / "logs" / f"{name}.log").read_text().strip() for name in "ab"} == {"0", "1"}


def test_a_signal_stops_all_and_begins_none(tmp_path: Path) -> None:
    text = f"import time; open({str(tmp_path / 'begun')!r}, 'a').write('x'); time.sleep(60)"

    def tick() -> None:
        if (tmp_path / "begun").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    assert threading.current_thread() is threading.main_thread()
    assert compute({name: command(text) for name in "abc"}, 1, tmp_path / "logs", tick=tick) == signal.SIGTERM
    assert (tmp_path / "begun").read_text() == "x"
