"""A job: its command, the jobs that it needs, and its results; shards, cells and trials are all jobs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfam_bench.jobs.notes import read_notes

STATES = ("done", "running", "elsewhere", "queued", "held", "failed", "waiting")
DUE = ("held", "failed", "waiting")  # what the next run starts


@dataclass(frozen=True)
class Job:
    """A unit of work, with an id that is unique below its root.

    after: ids of jobs that must be done first.
    results: files below the root, without which it is not done, whatever its note says.
    command: words after `sfam-bench`, where it is a command.
    size: amount of work, in the unit of its plan.
    axes: what varies among the jobs of a grid.
    """

    id: str
    after: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    size: int = 1
    axes: dict[str, Any] = field(default_factory=dict)


def is_done(root: Path, job: Job) -> bool:
    """Whether a job has written its note and all its results."""
    return bool(read_notes(root, "done", job.id)) and all((root / name).is_file() for name in job.results)


def has_failed(root: Path, job: Job) -> bool:
    """Whether a job has failed since the start of the current run."""
    return bool(read_notes(root, "failures", job.id))


def group_by_need(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in groups, each of which needs only jobs of earlier groups."""
    depth: dict[str, int] = {}
    for job in jobs:
        depth[job.id] = 1 + max((depth[name] for name in job.after if name in depth), default=-1)
    return [[job for job in jobs if depth[job.id] == level] for level in sorted({*depth.values()})]
