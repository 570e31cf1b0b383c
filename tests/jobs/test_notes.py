"""Notes: what is damaged, misplaced or of another version is said and counts as absent."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_json
from sfam_bench.jobs import notes
from sfam_bench.jobs.notes import claim, read_notes, remove_note, write_note
from tests.jobs.damage import damaged

FACTS = {
    "done": {"seconds": 0.5},
    "failures": {"error": "x"},
    "running": {},
    "launches": {"jobs": {"a": "1_0"}},
}


@pytest.mark.parametrize("kind", FACTS)
@pytest.mark.parametrize("how", ["flipped", "cut", "zeroed"])
def test_a_damaged_note_is_said_and_counts_as_absent(
    tmp_path: Path, kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_note(tmp_path, kind, "a", **FACTS[kind])
    write_note(tmp_path, kind, "b", **FACTS[kind])
    path = tmp_path / kind / "b.json"
    for copy in damaged(path.read_bytes(), how, 20):
        path.write_bytes(copy)
        notes._warn.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert list(read_notes(tmp_path, kind)) == ["a"]
        assert str(path) in caplog.text
        assert "treated as absent" in caplog.text


def test_a_note_of_another_job_or_version_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_note(tmp_path, "done", "a", **FACTS["done"])
    shutil.copy(tmp_path / "done" / "a.json", tmp_path / "done" / "b.json")
    write_note(tmp_path, "done", "c")
    write_json(tmp_path / "done" / "d.json", {"id": "d", "seconds": 0.5})
    assert list(read_notes(tmp_path, "done")) == ["a"]
    for name in "bcd":
        assert f"{name}.json is not a note of this version" in caplog.text


def test_one_note_is_read_alone(tmp_path: Path) -> None:
    for shard in "ab":
        write_note(tmp_path, "running", shard)
    assert list(read_notes(tmp_path, "running", "a")) == ["a"]


def test_a_job_that_another_process_does_is_refused(tmp_path: Path) -> None:
    write_note(tmp_path, "running", "a", pid=os.getppid())
    with pytest.raises(UserError, match=f"a is being computed by process {os.getppid()}"):
        claim(tmp_path, "a")
    assert read_notes(tmp_path, "running")["a"]["pid"] == os.getppid()
    write_note(tmp_path, "running", "b", pid=2**22 + 1)  # no such process
    claim(tmp_path, "b")
    assert read_notes(tmp_path, "running")["b"]["pid"] == os.getpid()
    remove_note(tmp_path, "running", "b")
    assert list(read_notes(tmp_path, "running")) == ["a"]
