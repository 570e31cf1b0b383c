"""A slice of the fault injection: no broken input ends in a traceback, a crash, a hang or a wrong value."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# in a process of its own, which forks before any library has begun threads
@pytest.mark.parametrize(
    ("kinds", "count"), [("data,images", 12), ("checkpoints", 6), ("configs,runs", 6), ("damage", 1)], ids=str
)
def test_broken_inputs_are_read_rightly_or_refused(kinds: str, count: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--kinds", kinds, "--count", str(count)]
    command += ["--seed", "7", "--out", str(tmp_path / "fuzz.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "fuzz.json").read_text())["after"]
    assert set(found) == set(kinds.split(","))
    bad = [one for kind in found.values() for one in kind["bad"] if one["outcome"] != "unhelpful"]
    assert not bad, json.dumps(bad, indent=1)
    assert sum(kind["counts"]["right"] + kind["counts"]["refused"] for kind in found.values()) > 0
