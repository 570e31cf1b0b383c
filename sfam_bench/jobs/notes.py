"""Notes: what tasks and drivers write about themselves into a run folder, one sealed file each."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.provenance import plain
from sfam_bench.jobs.processes import alive, identity

EVERY: Mapping[str, Any] = {"shard": str, "host": str, "boot": str, "space": str, "pid": int, "at": str}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "shards": {"state": str, "pairs": int, "spent": dict},
    "failures": {"error": str},
    "running": {"born": int | None, "job": str | None},
    "jobs": {"born": int | None},
}
log = logging.getLogger(__name__)


def leave(root: Path, kind: str, shard_id: str, pid: int | None = None, **facts: Any) -> None:
    """Write KIND/ID.json in a run folder, about this process or another one of this machine."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    who = {"shard": shard_id, **identity(pid or os.getpid()), "job": job}
    (root / kind).mkdir(exist_ok=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(root / kind / f"{shard_id}.json", plain({**who, "at": at, **facts}))


@contextmanager
def running(root: Path, shard_id: str) -> Iterator[None]:
    """Say that this process works on a shard, while the block runs; UserError where another process does."""
    other = left(root, "running", shard_id).get(shard_id)
    if other and other["pid"] != os.getpid() and alive(other):
        raise UserError(
            f"shard {shard_id} is being computed by process {other['pid']}: see submit.py status run_dir={root}"
        )
    leave(root, "running", shard_id)
    try:
        yield
    finally:
        (root / "running" / f"{shard_id}.json").unlink(missing_ok=True)


def left(root: Path, kind: str, shard_id: str = "*") -> dict[str, dict[str, Any]]:
    """The notes of a kind, by shard, or one of them; one that is damaged is named in the log and treated as absent."""
    found = {}
    for path in sorted((root / kind).glob(f"{shard_id}.json")):
        try:
            note = read_json(path, "it is treated as absent")
        except UserError as error:
            if path.exists():  # else it was removed at this moment
                _say(str(error))
            continue
        if note.get("shard") != path.stem or not _complete(note, {**EVERY, **FIELDS[kind]}):
            _say(f"{path} is no note of this version about {path.stem}: it is treated as absent")
            continue
        found[path.stem] = note
    return found


def _complete(note: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(name in note and isinstance(note[name], kind) for name, kind in fields.items())


@cache
def _say(line: str) -> None:
    """Once, since notes are read again and again."""
    log.warning("%s", line)
