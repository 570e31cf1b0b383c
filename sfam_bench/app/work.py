"""Do one job of a plan in this process: a shard, a cell of a sweep, or the trials of a study from a given one."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from sfam_bench.app.cli import explain_error
from sfam_bench.core.errors import UserError
from sfam_bench.core.imports import importing
from sfam_bench.core.signals import STOP_SIGNALS, Interrupted
from sfam_bench.jobs.job import Job, is_done
from sfam_bench.jobs.notes import claim, remove_note, write_note
from sfam_bench.jobs.plan import AnyPlan, find_job, read_plan

Signals: TypeAlias = Sequence[signal.Signals]
Perform: TypeAlias = Callable[[Job, Signals], dict[str, Any]]  # facts of the note; Interrupted at a signal
Open: TypeAlias = Callable[[Path, Any, Job, Sequence[str]], AbstractContextManager[Perform]]


def work(
    root: Path, job_id: str, stop_at: Signals = STOP_SIGNALS, allow: Sequence[str] = (), worker: Open | None = None
) -> int | None:
    """Do a job and the rest of its chain; the number of the signal that stopped it, or None.

    Leaves done/ID.json of each that came to its end, and failures/ID.json with the traceback of one that did not.
    `allow` are further packages whose objects the plan may name; `worker` does jobs in the place of the plan's own.
    UserError where the plan lacks the job, another process does it, or a job that it needs is not done.
    """
    root = root.resolve()
    plan = read_plan(root)
    chain = plan.chain(job_id)
    check_needs(root, plan, chain[0])
    claim(root, chain[0].id)
    claimed, job = [chain[0].id], chain[0]
    try:
        with enter(plan.folder, root), (worker or find_worker(plan))(root, plan, job, allow) as perform:
            for number, job in enumerate(chain):
                for kind in ("done", "failures"):  # of an earlier turn
                    remove_note(root, kind, job.id)
                start = time.perf_counter()
                facts = perform(job, stop_at)
                for following in chain[
                    number + 1 : number + 2
                ]:  # before this one is noted as done, so that no other process claims it
                    claim(root, following.id)
                    claimed.append(following.id)
                write_note(root, "done", job.id, seconds=time.perf_counter() - start, **facts)
                remove_note(root, "running", job.id)
        return None
    except Interrupted as stop:
        return stop.number
    except Exception as error:
        why = explain_error(error)
        facts = getattr(error, "facts", {})
        write_note(root, "failures", job.id, error=why, traceback=traceback.format_exc(), **facts)
        raise
    finally:
        for name in claimed:
            remove_note(root, "running", name)


def find_worker(plan: AnyPlan) -> Open:
    """The worker for the jobs of a plan."""
    with importing():
        if plan.kind == "evaluation":
            from sfam_bench.app.shards import shard_worker

            return shard_worker
        if plan.kind == "sweep":
            from sfam_bench.app.cells import cell_worker

            return cell_worker
        from sfam_bench.app.trials import trial_worker

        return trial_worker


def check_needs(root: Path, plan: AnyPlan, job: Job) -> None:
    """Raise UserError if a job that this one needs is not done."""
    for name in job.after:
        if not is_done(root, find_job(plan.jobs, name)):
            raise UserError(f"{job.id} needs {name}, which is not done: see sfam-bench submit status run_dir={root}")


@contextmanager
def enter(folder: str, root: Path) -> Iterator[None]:
    """Change to the folder where a plan was made, to which its paths are relative."""
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        why = f"{error.strerror}: {folder}"
        raise UserError(f"cannot enter the folder in which {root} was planned ({why}): plan again here") from error
    try:
        yield
    finally:
        os.chdir(before)
