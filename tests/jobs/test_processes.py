"""Processes are told from others that have their number."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfam_bench.jobs import processes
from sfam_bench.jobs.processes import ALIVE, ENDED, UNKNOWN, check_process, identity, is_alive, start_time, terminate

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def note(pid: int) -> dict[str, Any]:
    return {**identity(pid), "at": "2026-01-01T00:00:00+00:00"}


def test_a_process_is_alive_until_it_ends(child: Child) -> None:
    said = note(child.pid)
    assert check_process(said) == ALIVE
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and its exit code not yet taken
    assert check_process(said) == ENDED
    child.wait()
    assert check_process(said) == ENDED


def test_a_number_that_was_given_anew_is_another_process_and_is_left_alone(child: Child) -> None:
    former = {**note(child.pid), "born": start_time(child.pid) - 1}  # type: ignore[operator]
    assert check_process(former) == ENDED
    assert not terminate(former)
    assert child.poll() is None
    assert terminate(note(child.pid))
    assert child.wait(20) == -signal.SIGTERM
    assert not terminate(note(child.pid))


def test_a_number_that_is_given_anew_while_it_is_stopped_is_left_alone(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(processes, "is_alive", lambda _: next(answers))
    assert not terminate(note(child.pid))
    assert child.poll() is None


def test_what_cannot_be_seen_from_here_is_neither_alive_nor_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = note(os.getpid())
    assert is_alive(mine)
    assert check_process({**mine, "host": "another"}) == UNKNOWN
    assert check_process({**mine, "space": "pid:[1]"}) == UNKNOWN  # a container of this host
    assert check_process({**mine, "boot": "another", "at": "2001-01-01T00:00:00+00:00"}) == ENDED  # restarted since
    assert check_process({**mine, "boot": "another", "at": "2999-01-01T00:00:00+00:00"}) == UNKNOWN  # of the same name
    assert check_process({**mine, "born": None}) == ENDED
    assert not terminate({**mine, "host": "another"})


def test_the_name_of_a_program_may_hold_anything(tmp_path: Path) -> None:
    program = tmp_path / "a) Z b"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "600"]) as process:
        assert is_alive(note(process.pid))
        process.kill()
