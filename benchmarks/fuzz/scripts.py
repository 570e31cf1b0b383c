"""The scripts of experiments/, in this process: a new one spends seconds on imports."""

import io
import logging
import re
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from sfam_bench.core.errors import UserError

ROOT = Path(__file__).parents[2]


class Refused(UserError):
    """A script ended with code 2 and a line."""


def script(name: str, *arguments: str) -> str:
    """Run experiments/NAME.py as a shell would; returns what it printed, or raises Refused with its error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    GlobalHydra.instance().clear()
    sys.argv = [str(ROOT / "experiments" / f"{name}.py"), *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        GlobalHydra.instance().clear()
        logging.getLogger().handlers.clear()  # Hydra's, on streams that are closed now
    if code == 0:
        return out.getvalue() + err.getvalue()
    text = err.getvalue()
    if "Traceback" in text or code != 2:
        raise RuntimeError(f"exit code {code}: {text[-300:]}")
    lines = re.findall(r"^.*?\berror: (.*(?:\n.*)*)", text, re.MULTILINE)
    raise Refused((lines[-1] if lines else text).strip())
