"""Notes: what is damaged, misplaced or of another version is said and counts as absent."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_json
from sfam_bench.jobs import notes
from sfam_bench.jobs.notes import leave, left, running
from tests.cluster.damage import damaged

FACTS = {
    "shards": {"state": "done", "pairs": 2, "spent": {"sfam": 0.5}},
    "failures": {"error": "x"},
    "running": {},
    "jobs": {"jobs": {"a": "1_0"}},
}


@pytest.mark.parametrize("kind", FACTS)
@pytest.mark.parametrize("how", ["flipped", "cut", "zeroed"])
def test_a_damaged_note_is_said_and_counts_as_absent(
    tmp_path: Path, kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, kind, "a", **FACTS[kind])
    leave(tmp_path, kind, "b", **FACTS[kind])
    path = tmp_path / kind / "b.json"
    for copy in damaged(path.read_bytes(), how, 20):
        path.write_bytes(copy)
        notes._say.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert list(left(tmp_path, kind)) == ["a"]
        assert str(path) in caplog.text
        assert "treated as absent" in caplog.text


def test_a_note_of_another_shard_or_version_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(tmp_path, "shards", "a", **FACTS["shards"])
    shutil.copy(tmp_path / "shards" / "a.json", tmp_path / "shards" / "b.json")
    leave(tmp_path, "shards", "c", state="done")
    write_json(tmp_path / "shards" / "d.json", {"shard": "d", "state": "done"})
    assert list(left(tmp_path, "shards")) == ["a"]
    for name in "bcd":
        assert f"{name}.json is no note of this version" in caplog.text


def test_one_note_is_read_alone(tmp_path: Path) -> None:
    for shard in "ab":
        leave(tmp_path, "running", shard)
    assert list(left(tmp_path, "running", "a")) == ["a"]


def test_a_shard_that_another_process_computes_is_refused(tmp_path: Path) -> None:
    leave(tmp_path, "running", "a", pid=os.getppid())
    with pytest.raises(UserError, match=f"shard a is being computed by process {os.getppid()}"), running(tmp_path, "a"):
        pass
    assert left(tmp_path, "running")["a"]["pid"] == os.getppid()
    leave(tmp_path, "running", "b", pid=2**22 + 1)  # no such process
    with running(tmp_path, "b"):
        assert left(tmp_path, "running")["b"]["pid"] == os.getpid()
    assert list(left(tmp_path, "running")) == ["a"]
