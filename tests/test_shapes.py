"""Shapes are checked under `-p tests.shapes`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.shapes import find_modules

WRONG = """
import pytest, torch
from sfam_bench.core.similarity import Cosine

@pytest.mark.parametrize("query", [torch.zeros(2, 3), torch.zeros(3)])
def test_a_vector_is_no_batch(query):
    Cosine()(query, torch.zeros(2, 3))
"""


def test_modules_that_state_shapes_are_found() -> None:
    found = find_modules()
    assert {"sfam_bench.explainers.sfam", "sfam_bench.metrics.causal", "sfam_bench.core.types"} <= {*found}
    assert "sfam_bench.datasets.tables" not in found


@pytest.mark.slow
def test_a_wrong_shape_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "pytest", "-p", "tests.shapes", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "TypeCheckError" in done.stdout
