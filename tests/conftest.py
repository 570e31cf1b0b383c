"""Shared by all tests: scripts run in this process, since a new one spends seconds on imports; the real photos."""

import gc
import io
import logging
import os
import runpy
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from tests.paths import ROOT, SHARED, UNTRAINED
from tests.scripts import Outcome, Run

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny tensors, and workers of xdist that share the cores
gc.disable()  # while a million objects are imported, which every full collection would walk through

EVALUATING = ("evaluate", "embed", "intervene", "part_agreement", "submit", "tune")


def _run(name: str, *overrides: str) -> Outcome:
    planned = name == "submit" and overrides[:1] not in (("plan",), ("verb=plan",))  # these read what was planned
    if name in EVALUATING and not planned and not any(given.startswith("protocol") for given in overrides):
        overrides = (*overrides, UNTRAINED)
    out, err, code = io.StringIO(), io.StringIO(), 0
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    GlobalHydra.instance().clear()
    try:
        with (
            patch("sys.argv", [f"experiments/{name}.py", *overrides]),
            patch.dict(os.environ),
            patch.object(Hydra, "get_mode", return_value=None),  # which composes the whole config once more
            patch("logging.shutdown"),  # Hydra's set-up would have absl close pytest's stream, which is not stderr now
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
    except SystemExit as exited:
        code = exited.code if isinstance(exited.code, int) else 1
    finally:
        GlobalHydra.instance().clear()
        root.handlers[:], root.level = handlers, level  # Hydra sets up logging anew, on what is now a closed stream
    return code, out.getvalue(), err.getvalue()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what waits for a SLURM for minutes, so that it does not run alone at the end."""
    items.sort(key=lambda item: "tests/cluster/" not in item.nodeid)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, without a look at what is imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def run_script() -> Run:
    """`run_script(name, *overrides)` runs experiments/<name>.py as a shell would: (exit code, stdout, stderr)."""
    return _run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}: set SFAM_BENCH_SHARED")
    return SHARED
