"""Read text tables of data sets: UTF-8 with or without BOM, any line ends, columns separated by blanks or tabs."""

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_regular

FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
BLANKS = re.compile(r"[ \t]+")

log = logging.getLogger(__name__)


def parse_string(cell: str) -> str:
    """Parse a non-empty string."""
    if not cell:
        raise ValueError("a non-empty string")
    return cell


def parse_path(cell: str) -> str:
    """Parse a path whose name stays below the data set's folder; links are checked later (`folder.resolve_inside`)."""
    if leads_out(parse_string(cell)):
        raise ValueError("a path below the data set's folder; this one leads out of it")
    return cell


def leads_out(path: str) -> bool:
    """Whether a path is absolute, has a drive, or holds `..`, in POSIX or Windows notation."""
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or ".." in windows.parts or "\0" in path


def parse_natural(cell: str) -> int:
    """Parse a non-negative integer in decimal digits."""
    if not re.fullmatch(r"[0-9]{1,18}", cell):
        raise ValueError("an integer of at least 0")
    return int(cell)


def parse_number(cell: str) -> float:
    """Parse a finite number; raises ValueError, as all parsers do, naming what is expected."""
    try:
        found = math.nan if "_" in cell else float(cell)  # which Python allows between digits
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("a finite number")
    return found


def parse_flag(cell: str) -> bool:
    """Parse True or False, written as true, 1, 1.0, false, 0 or 0.0 in any case."""
    if cell.lower() not in FLAGS:
        raise ValueError("True or False")
    return FLAGS[cell.lower()]


Columns = Mapping[str, Callable[[str], Any]]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The non-blank lines of a file with their numbers; UserError if it is absent, empty or not UTF-8."""
    try:
        content = check_regular(path).read_bytes()
        lines = re.split(r"\r\n|\r|\n", content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): copy it again") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        remedy = "copy the file again, or convert it (iconv -f latin1 -t utf-8)"
        raise UserError(f"{path}, line {line}: not UTF-8: {remedy}") from None
    found = [(at, line.strip()) for at, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path} is empty: copy it again")
    return found


def read_table(path: Path, columns: Columns, header: bool = False, keys: int = 1) -> pd.DataFrame:
    """Read a table indexed by its first column; rows must be unique in the first `keys` columns.

    A header must name exactly these columns, in any order. The last column may hold blanks. UserError, with file and
    line, if a cell is invalid.
    """
    lines = read_lines(path)
    names = list(columns)
    if header:
        at, first = lines.pop(0)
        names = BLANKS.split(first)
        if sorted(names) != sorted(columns):
            raise UserError(f"{path}, line {at}: {first!r} is no header of columns {' '.join(columns)}: add that line")
    cells = ((at, BLANKS.split(line, len(names) - 1)) for at, line in lines)
    return _frame(path, [(at, dict(zip(names, row, strict=False))) for at, row in cells], columns, keys)


def read_csv(path: Path, columns: Columns, header: bool = True, optional: Columns | None = None) -> pd.DataFrame:
    """Read comma-separated cells, indexed by line number; without a header, in the order of `columns`.

    Columns of `optional` may be absent, and their cells may be empty, which gives None. Other columns are not used;
    where there are optional ones, which may be misspelt, that is logged.
    """
    numbers, lines = zip(*read_lines(path), strict=True)
    try:
        reader = csv.reader(io.StringIO("\n".join(lines), newline=""), strict=True, skipinitialspace=True)
        rows = [(numbers[min(reader.line_num, len(numbers)) - 1], row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {numbers[reader.line_num - 1]}: invalid CSV ({error}): correct it") from None
    names = rows.pop(0)[1] if header else list(columns)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}, line {numbers[0]}: names the column {twice[0]!r} twice: remove one")
    if absent := [name for name in columns if name not in names]:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}: it has {', '.join(names)}")
    if wrong := [at for at, row in rows if len(row) != len(names)]:
        raise UserError(f"{path}, line {wrong[0]}: expected {len(names)} cells: {', '.join(names)}")
    known = {**columns, **{name: _allow_empty(parse) for name, parse in (optional or {}).items() if name in names}}
    if optional is not None and (others := [name for name in names if name not in known]):
        log.warning("%s: columns that are not used: %s", path, ", ".join(others))
    frame = _frame(path, [(at, dict(zip(names, row, strict=True))) for at, row in rows], known, 0)
    return frame.set_index(pd.Index([at for at, _ in rows], name="line"))


def _allow_empty(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda cell: parse(cell) if cell else None


def _frame(path: Path, rows: list[tuple[int, dict[str, str]]], columns: Columns, keys: int) -> pd.DataFrame:
    found: dict[str, list[Any]] = {name: [] for name in columns}
    seen: dict[tuple[Any, ...], int] = {}
    for at, row in rows:
        for name, parse in columns.items():
            try:
                found[name].append(parse(row.get(name, "").strip()))
            except ValueError as error:
                cell, remedy = repr(row[name]) if name in row else "absent", "correct it, or copy the file again"
                expected = f"{error} (columns {', '.join(columns)})"
                raise UserError(f"{path}, line {at}: {name} is {cell}: expected {expected}; {remedy}") from None
        if keys:
            key = tuple(values[-1] for values in list(found.values())[:keys])
            if (before := seen.setdefault(key, at)) != at:
                what = " ".join(f"{name} {value!r}" for name, value in zip(columns, key, strict=False))
                raise UserError(f"{path}, line {at}: {what} is on line {before} already: remove one of them")
    frame = pd.DataFrame({name: pd.Series(values, dtype=_dtype(values)) for name, values in found.items()})
    return frame.set_index(next(iter(columns))) if keys else frame


def _dtype(values: list[Any]) -> Any:
    kinds = {type(value) for value in values}
    return kinds.pop() if len(kinds) == 1 and kinds <= {int, float, bool} else object
