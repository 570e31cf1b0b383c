"""Read MATLAB files in a separate process, as a damaged file can crash scipy."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.core.errors import UserError

READER = Path(__file__).with_name("matlab_reader.py")
SECONDS = 120


def read_mat(path: Path, variable: str, **columns: Callable[[str], Any]) -> pd.DataFrame:
    """Read a struct array with a column per field, or another array as the column "value"; rows count from 1.

    `columns` convert the cells of the columns that exist, as in `tables.read_table`. UserError if the file is absent or
    damaged.
    """
    remedy = "copy the file again"
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    command = [sys.executable, "-P", str(READER), str(path), variable]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"cannot read {variable} in {path} within {SECONDS} s: {remedy}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        crash = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
        raise UserError(f"cannot read {variable} in {path} ({crash or (lines or ['no reason given'])[-1]}): {remedy}")
    found = json.loads(done.stdout)
    rows = len(next(iter(found.values()), []))
    for name in columns.keys() & found.keys():
        for row in range(rows):
            try:
                found[name][row] = columns[name](str(found[name][row]))
            except ValueError as error:
                cell = f"{name} of row {row + 1} of {variable}"
                raise UserError(f"{path}: {cell} is {found[name][row]!r}: expected {error}; {remedy}") from None
    return pd.DataFrame(found, index=pd.RangeIndex(1, rows + 1))
