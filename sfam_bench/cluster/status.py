"""Where each shard stands, told from what lies in the run folder and from what is still alive."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.cluster.plan import Plan
from sfam_bench.files import atomic

STATES = ("done", "incomplete", "running", "queued", "held", "failed", "missing")
DUE = ("incomplete", "held", "failed", "missing")
RECENT = 600  # seconds over which the rate is taken


def leave(root: Path, kind: str, shard_id: str, **facts: Any) -> None:
    """Write KIND/ID.json in a run folder: what a task leaves of itself."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    who = {"shard": shard_id, "host": socket.gethostname(), "pid": os.getpid(), "job": job}
    (root / kind).mkdir(exist_ok=True)
    with atomic(root / kind / f"{shard_id}.json") as temporary:
        known = {**who, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        temporary.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def running(root: Path, shard_id: str) -> Iterator[None]:
    """Say that this process works on a shard, while the block runs."""
    leave(root, "running", shard_id)
    try:
        yield
    finally:
        (root / "running" / f"{shard_id}.json").unlink(missing_ok=True)


def left(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What tasks left, by shard; a file that cannot be read is as if it were not there."""
    found = {}
    for path in sorted((root / kind).glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
    return found


def alive(note: Mapping[str, Any]) -> bool:
    """Whether a process of this host that left a note still runs."""
    if note.get("host") != socket.gethostname():
        return False
    try:
        command = Path(f"/proc/{note['pid']}/cmdline").read_bytes()
    except OSError:
        return False
    return b"python" in command  # else another program has been given the number since


@dataclass(frozen=True)
class Status:
    """One row a shard: state, why, batches and how many of them are there, pairs."""

    shards: pd.DataFrame
    rate: float  # pairs a second, of late

    @classmethod
    def of(cls, root: Path, plan: Plan, queue: Mapping[str, str]) -> "Status":
        """Look at a run folder; `queue` holds the shards that a scheduler knows, as "running" or "queued"."""
        pieces = {int(path.stem): path for path in (root / "records").glob("[0-9]*.parquet")}
        ended, failed, at_work = left(root, "shards"), left(root, "failures"), left(root, "running")
        rows = []
        for shard in plan.shards:
            there = sum(number in pieces for number in shard.batches)
            end = ended.get(shard.id, {}).get("state")
            if end == "done" and there == len(shard.batches):
                state, why = "done", ""
            elif alive(at_work.get(shard.id, {})):
                state, why = "running", ""
            elif shard.id in queue:
                state, why = queue[shard.id], ""
            elif end == "incomplete":
                state, why = "incomplete", failed.get(shard.id, {}).get("error", "")
            elif shard.id in failed:
                state, why = "failed", failed[shard.id].get("error", "")
            else:
                state, why = "missing", ""
            rows.append((shard.id, state, there, len(shard.batches), plan.pairs_of(shard), why))
        columns = ["shard", "state", "there", "batches", "pairs", "why"]
        return cls(pd.DataFrame(rows, columns=columns), recent_rate(plan, pieces))

    def of_state(self, *states: str) -> list[str]:
        """The ids of shards in some states."""
        return [str(shard) for shard in self.shards.loc[self.shards["state"].isin(states), "shard"]]

    @property
    def live(self) -> bool:
        """Whether anything is at work, or waits for its turn."""
        return bool(self.of_state("running", "queued"))

    @property
    def line(self) -> str:
        """Everything on one line."""
        counts = self.shards["state"].value_counts()
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
        there, batches = int(self.shards["there"].sum()), int(self.shards["batches"].sum())
        line = f"{len(self.shards)} shards: {states}; {there} of {batches} batches"
        if self.live and self.rate:
            share = self.shards["pairs"] * (1 - self.shards["there"] / self.shards["batches"])
            line += f"; {self.rate:.1f} pairs a second, {duration(share.sum() / self.rate)} to go"
        return line

    @property
    def troubles(self) -> str:
        """Each shard that failed or is incomplete, and why."""
        bad = self.shards[self.shards["why"] != ""]
        return "\n".join(f"{row.state} {row.shard}: {row.why}" for row in bad.itertuples())


def recent_rate(plan: Plan, pieces: Mapping[int, Path]) -> float:
    """Pairs a second, from the age of the pieces that were written last."""
    now, ages = time.time(), {}
    for number, path in pieces.items():
        try:
            ages[number] = now - path.stat().st_mtime
        except OSError:  # set aside at this moment
            continue
    recent = {number: age for number, age in ages.items() if age < RECENT}
    if len(recent) < 2:
        return 0.0
    first = max(recent, key=lambda number: recent[number])  # its own work lies before the window
    return sum(plan.batches[number] for number in recent if number != first) / max(recent[first], 1e-9)


def duration(seconds: float) -> str:
    """As a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
