"""Where each shard stands, told from what lies in the run folder and from what is still alive."""

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.jobs.notes import left
from sfam_bench.jobs.plan import Plan
from sfam_bench.jobs.processes import ALIVE, ENDED, UNKNOWN, standing

STATES = ("done", "incomplete", "running", "elsewhere", "queued", "held", "failed", "missing")
DUE = ("incomplete", "held", "failed", "missing")
RECENT = 600  # seconds over which the rate is taken


@dataclass(frozen=True)
class Status:
    """One row a shard: state, why, batches and how many of them are there, pairs."""

    shards: pd.DataFrame
    rate: float  # pairs a second, of late

    @classmethod
    def of(cls, root: Path, plan: Plan, queue: Mapping[str, str], ended: Container[str] = ()) -> "Status":
        """Look at a run folder; `queue` holds the shards that a scheduler knows, as "running" or "queued".

        `ended` are shards whose processes are known to have ended, though this cannot be seen from this host.
        """
        pieces = {int(path.stem): path for path in (root / "records").glob("[0-9]*.parquet")}
        noted, failed, at_work = left(root, "shards"), left(root, "failures"), left(root, "running")
        rows = []
        for shard in plan.shards:
            there = sum(number in pieces for number in shard.batches)
            end = noted.get(shard.id, {}).get("state")
            process = at_work.get(shard.id)
            stands = standing(process) if process else ENDED
            if end == "done" and there == len(shard.batches):
                state, why = "done", ""
            elif stands == ALIVE:
                state, why = "running", ""
            elif shard.id in queue:
                state, why = queue[shard.id], ""
            elif process and stands == UNKNOWN and shard.id not in ended:
                state, why = "elsewhere", described(process)
            elif end == "incomplete":
                state, why = "incomplete", failed.get(shard.id, {}).get("error", "")
            elif shard.id in failed:
                state, why = "failed", failed[shard.id]["error"]
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


def described(note: Mapping[str, Any]) -> str:
    """Where a process is that cannot be seen from this host, and what to do about it."""
    return (
        f"process {note['pid']} of host {note['host']} computes it since {note['at']}, which cannot be verified from "
        f"here: look there, and if it has ended, run with gone=[{note['host']}]"
    )


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
