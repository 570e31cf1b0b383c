"""The state of each job, from the files below its root and the running processes."""

import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.jobs.job import STATES
from sfam_bench.jobs.notes import read_notes
from sfam_bench.jobs.plan import AnyPlan, Plan
from sfam_bench.jobs.processes import ALIVE, ENDED, UNKNOWN, check_process
from sfam_bench.runs.chunks import chunk_paths

RECENT = 600  # seconds over which the rate is measured


@dataclass(frozen=True)
class Status:
    """One row per job: id, state, reason, number of results, results present, size."""

    jobs: pd.DataFrame
    word: str  # the plural name of the jobs
    rate: float = 0.0  # pairs a second, of late

    @classmethod
    def of(cls, root: Path, plan: AnyPlan, queue: Mapping[str, str], ended: Container[str] = ()) -> "Status":
        """Read the state from files; `queue` has the jobs known to a scheduler or driver, as "running" or "queued".

        `ended` are jobs whose processes are known to have ended, though this cannot be seen from this host.
        """
        present = list_files(root, {str(Path(name).parent) for job in plan.jobs for name in job.results})
        done, failed, at_work = (read_notes(root, kind) for kind in ("done", "failures", "running"))
        rows, states = [], dict[str, str]()
        for job in plan.jobs:  # a job comes after those that it needs
            there = sum(name in present for name in job.results)
            process = at_work.get(job.id)
            stands = check_process(process) if process else ENDED
            needed = [name for name in job.after if states.get(name) != "done"]
            state, why = "waiting", ""
            if job.id in done and there == len(job.results):
                state = "done"
            elif stands == ALIVE:
                state = "running"
            elif job.id in queue:
                state = "queued" if needed and queue[job.id] == "running" else queue[job.id]
            elif process and stands == UNKNOWN and job.id not in ended:
                state, why = "elsewhere", describe_process(process)
            elif job.id in failed:
                state, why = "failed", failed[job.id]["error"]
            elif lost := [name for name in needed if states.get(name) == "failed"]:
                why = f"needs {lost[0]}, which failed"
            states[job.id] = state
            rows.append((job.id, state, there, len(job.results), job.size, why))
        frame = pd.DataFrame(rows, columns=["job", "state", "there", "results", "size", "why"])
        return cls(frame, plan.word, recent_rate(root, plan) if isinstance(plan, Plan) else 0.0)

    def of_state(self, *states: str) -> list[str]:
        """The ids of the jobs in these states."""
        return [str(job) for job in self.jobs.loc[self.jobs["state"].isin(states), "job"]]

    @property
    def live(self) -> bool:
        """Whether any job is running or queued."""
        return bool(self.of_state("running", "queued"))

    @property
    def complete(self) -> bool:
        """Whether all jobs are done."""
        return bool((self.jobs["state"] == "done").all())

    @property
    def line(self) -> str:
        """The summary line."""
        counts = self.jobs["state"].value_counts()
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
        there, results = int(self.jobs["there"].sum()), int(self.jobs["results"].sum())
        line = f"{len(self.jobs)} {self.word}: {states}"
        if self.word == Plan.word:
            line += f"; {there} of {results} batches"
        if self.live and self.rate:
            share = self.jobs["size"] * (1 - self.jobs["there"] / self.jobs["results"])
            line += f"; {self.rate:.1f} pairs a second, {format_duration(share.sum() / self.rate)} to go"
        return line

    @property
    def troubles(self) -> str:
        """One line for each job that is not done, with the reason."""
        bad = self.jobs[self.jobs["why"] != ""]
        return "\n".join(f"{row.state} {row.job}: {row.why}" for row in bad.itertuples())


def list_files(root: Path, folders: Iterable[str]) -> set[str]:
    """The files in some folders below a root, by their names below it; each folder is read once."""
    return {str(path.relative_to(root)) for folder in folders for path in (root / folder).glob("*")}


def describe_process(note: Mapping[str, Any]) -> str:
    """The host of a process that cannot be checked from here, and what to do."""
    return (
        f"process {note['pid']} of host {note['host']} computes it since {note['at']}, which cannot be verified from "
        f"here: look there, and if it has ended, run with gone=[{note['host']}]"
    )


def recent_rate(root: Path, plan: Plan) -> float:
    """Pairs per second, from the times of the newest chunks."""
    now, ages = time.time(), dict[int, float]()
    for path in chunk_paths(root):
        try:
            ages[int(path.stem)] = now - path.stat().st_mtime
        except OSError:  # set aside at this moment
            continue
    recent = {number: age for number, age in ages.items() if age < RECENT}
    if len(recent) < 2:
        return 0.0
    first = max(recent, key=lambda number: recent[number])  # it was computed before the window
    return sum(plan.batches[number] for number in recent if number != first) / max(recent[first], 1e-9)


def format_duration(seconds: float) -> str:
    """Seconds in readable units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
