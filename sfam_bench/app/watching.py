"""How a planned evaluation stands, asked of its folder, of the processes of this machine, and of SLURM."""

import sys
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from sfam_bench.core.errors import UserError
from sfam_bench.jobs import slurm
from sfam_bench.jobs.notes import left
from sfam_bench.jobs.plan import Plan
from sfam_bench.jobs.processes import UNKNOWN, alive, standing
from sfam_bench.jobs.status import Status


def submitted(root: Path) -> dict[str, str]:
    """The job that each shard was given to last."""
    return {shard: job for note in left(root, "jobs").values() for shard, job in note.get("jobs", {}).items()}


def state(root: Path, found: Plan, gone: Container[str] = ()) -> Status:
    """How each shard stands; asks SLURM where it was given any that are not done.

    `gone` are hosts whose processes have ended, though this cannot be seen from here.
    """
    done, failed = Status.of(root, found, {}).of_state("done"), left(root, "failures")
    here = (note["due"] for note in left(root, "jobs").values() if "due" in note and alive(note))
    queue = {shard: "queued" for due in here for shard in due if shard not in failed}
    queue.update(slurm.queue({shard: job for shard, job in submitted(root).items() if shard not in done}))
    far = {shard: note for shard, note in left(root, "running").items() if standing(note) == UNKNOWN}
    known = slurm.queue({shard: note["job"] for shard, note in far.items() if note["job"] and shard not in done})
    ended = {shard for shard, note in far.items() if note["host"] in gone or (note["job"] and shard not in known)}
    return Status.of(root, found, queue, ended)


@dataclass
class Teller:
    """Says now and then how it stands."""

    root: Path
    plan: Plan
    gone: Container[str] = ()
    every: float = 30.0
    told: float = 0.0

    def __call__(self) -> None:
        """Say it, if it is time."""
        if time.monotonic() - self.told > self.every:
            self.tell(state(self.root, self.plan, self.gone))

    def tell(self, now: Status) -> None:
        """Say it."""
        self.told = time.monotonic()
        print(now.line, file=sys.stderr, flush=True)


def awaited(root: Path, found: Plan, gone: Container[str] = ()) -> Status:
    """How it stands once nothing is at work and nothing waits."""
    tell, patience = Teller(root, found, gone), 60
    while True:
        try:
            now = state(root, found, gone)
        except UserError:  # a controller that restarts
            if not (patience := patience - 1):
                raise
        else:
            if not now.live:
                return now
            if time.monotonic() - tell.told > tell.every:
                tell.tell(now)
        time.sleep(2)
