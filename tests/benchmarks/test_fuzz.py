"""A slice of the fault injection: no broken input ends in a traceback, a crash, a hang or a wrong value."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SLICE = {"data": 4, "images": 8, "checkpoints": 3, "configs": 3, "runs": 3, "damage": 1}


@pytest.mark.slow
def test_broken_inputs_are_read_rightly_or_refused(tmp_path: Path) -> None:
    kinds = ",".join(f"{kind}:{count}" for kind, count in SLICE.items())
    # in a process of its own, which forks before any library has begun threads
    command = [sys.executable, "-m", "benchmarks.fuzz", "--kinds", kinds, "--seed", "7"]
    subprocess.run([*command, "--out", str(tmp_path / "fuzz.json")], cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "fuzz.json").read_text())["after"]
    assert found.keys() == SLICE.keys()
    bad = [one for kind in found.values() for one in kind["bad"] if one["outcome"] != "unhelpful"]
    assert not bad, json.dumps(bad, indent=1)
    assert all(kind["counts"]["right"] + kind["counts"]["refused"] for kind in found.values())
