"""Two processes that share each batch train as one does with the whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.paths import ROOT

pytestmark = pytest.mark.slow


def go(run: Path, *launcher: str) -> dict[int, float]:
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.training.toy", str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {int(step): float.fromhex(loss) for step, loss in re.findall(r"^(\d+) (\S+)$", done.stdout, re.M)}


def test_two_gloo_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    one = go(tmp_path / "one")
    two = go(tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    assert two.keys() == one.keys()
    assert len(one) == 60
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    weights, expected = load_file(tmp_path / "two/model.safetensors"), load_file(tmp_path / "one/model.safetensors")
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-5)
