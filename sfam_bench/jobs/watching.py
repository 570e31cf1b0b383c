"""The state of jobs, from the files below their root, the processes of this machine, and SLURM."""

import sys
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from sfam_bench.core.errors import UserError
from sfam_bench.jobs import slurm
from sfam_bench.jobs.notes import read_notes
from sfam_bench.jobs.plan import AnyPlan
from sfam_bench.jobs.processes import UNKNOWN, check_process, is_alive
from sfam_bench.jobs.status import Status


def read_submitted(root: Path) -> dict[str, str]:
    """The last SLURM id of each job."""
    return {job: its for note in read_notes(root, "launches").values() for job, its in note.get("jobs", {}).items()}


def read_status(root: Path, plan: AnyPlan, gone: Container[str] = ()) -> Status:
    """The state of each job; queries SLURM if jobs submitted there are not done.

    `gone` are hosts whose processes have ended, though this cannot be seen from here.
    """
    done, failed = Status.of(root, plan, {}).of_state("done"), read_notes(root, "failures")
    here = (note["due"] for note in read_notes(root, "launches").values() if "due" in note and is_alive(note))
    queue = {job: "queued" for due in here for job in due if job not in failed}
    queue.update(slurm.queue({job: its for job, its in read_submitted(root).items() if job not in done}))
    far = {job: note for job, note in read_notes(root, "running").items() if check_process(note) == UNKNOWN}
    known = slurm.queue({job: note["slurm"] for job, note in far.items() if note["slurm"] and job not in done})
    ended = {job for job, note in far.items() if note["host"] in gone or (note["slurm"] and job not in known)}
    return Status.of(root, plan, queue, ended)


@dataclass
class Reporter:
    """Prints the state of jobs at intervals."""

    root: Path
    plan: AnyPlan
    gone: Container[str] = ()
    every: float = 30.0
    last: float = 0.0

    def __call__(self) -> None:
        """Print it, if it is time."""
        if time.monotonic() - self.last > self.every:
            self.report(read_status(self.root, self.plan, self.gone))

    def report(self, now: Status) -> None:
        """Print it."""
        self.last = time.monotonic()
        print(now.line, file=sys.stderr, flush=True)


def wait(root: Path, plan: AnyPlan, gone: Container[str] = ()) -> Status:
    """Wait until no job is running or queued; the final state."""
    reporter, patience = Reporter(root, plan, gone), 60
    while True:
        try:
            now = read_status(root, plan, gone)
        except UserError:  # a controller that restarts
            if not (patience := patience - 1):
                raise
        else:
            if not now.live:
                return now
            if time.monotonic() - reporter.last > reporter.every:
                reporter.report(now)
        time.sleep(2)
