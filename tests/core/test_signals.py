"""What prints ends quietly where its reader leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfam_bench.core.signals import ignore_closed_pipe
from tests.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "from sfam_bench.app.console import main; main(['models', 'ls'])"],
        [sys.executable, "experiments/report.py", "--cfg", "job"],
    ],
)
def test_a_reader_that_leaves_ends_a_command_quietly(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:  # noqa: PTH123
        found = subprocess.run(
            command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    assert found.returncode == 141
    assert found.stderr == b""


def test_another_broken_pipe_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(BrokenPipeError), ignore_closed_pipe():
            raise BrokenPipeError
