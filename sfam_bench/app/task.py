"""A job as submitit calls it; imports little, so that signals that come while torch is loaded find a handler."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One job, queued again by submitit when it ran out of time."""

    root: str
    job: str
    allow: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Do it, and hand the warning before the end of its time on to submitit.

        SIGTERM does not stop it: of a task that ends by itself after it, SLURM thinks that it was done.
        """
        from sfam_bench.app.work import work

        if stopped := work(Path(self.root), self.job, [signal.SIGUSR2], self.allow):
            signal.raise_signal(stopped)

    def checkpoint(self) -> Any:
        """The task to requeue: the same one, since finished work is kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
