"""Notes: the files KIND/ID.json below a root, with a digest each, in which jobs and drivers record their state."""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.provenance import to_plain
from sfam_bench.jobs.processes import identity, is_alive

EVERY: Mapping[str, Any] = {"id": str, "host": str, "boot": str, "space": str, "pid": int, "at": str}
FIELDS: Mapping[str, Mapping[str, Any]] = {  # of each kind
    "done": {"seconds": float},
    "failures": {"error": str},
    "running": {"born": int | None, "slurm": str | None},
    "launches": {"born": int | None},  # drivers, and what was submitted
}
log = logging.getLogger(__name__)


def write_note(root: Path, kind: str, name: str, pid: int | None = None, **facts: Any) -> None:
    """Write KIND/NAME.json for this process, or another process of this machine."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    slurm = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    who = {"id": name, **identity(pid or os.getpid()), "slurm": slurm}
    (root / kind).mkdir(exist_ok=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(root / kind / f"{name}.json", to_plain({**who, "at": at, **facts}))


def remove_note(root: Path, kind: str, name: str) -> None:
    """Remove a note, if present."""
    (root / kind / f"{name}.json").unlink(missing_ok=True)


def claim(root: Path, name: str) -> None:
    """Note that this process does a job; UserError if another running process does it."""
    other = read_notes(root, "running", name).get(name)
    if other and other["pid"] != os.getpid() and is_alive(other):
        raise UserError(
            f"{name} is being computed by process {other['pid']}: see sfam-bench submit status run_dir={root}"
        )
    write_note(root, "running", name)


def read_notes(root: Path, kind: str, name: str = "*") -> dict[str, dict[str, Any]]:
    """The notes of a kind by id, or one of them; a damaged note is logged and treated as absent."""
    found = {}
    for path in sorted((root / kind).glob(f"{name}.json")):
        try:
            note = read_json(path, "it is treated as absent")
        except UserError as error:
            if path.exists():  # else it was removed at this moment
                _warn(str(error))
            continue
        if note.get("id") != path.stem or not _is_complete(note, {**EVERY, **FIELDS[kind]}):
            _warn(f"{path} is not a note of this version about {path.stem}: it is treated as absent")
            continue
        found[path.stem] = note
    return found


def _is_complete(note: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(name in note and isinstance(note[name], kind) for name, kind in fields.items())


@cache
def _warn(line: str) -> None:
    """Log once, since notes are read repeatedly."""
    log.warning("%s", line)
