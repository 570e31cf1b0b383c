"""Start, watch and stop the jobs of a plan: in this process, in processes of this machine, or on SLURM."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from sfam_bench.app.cli import explain_error
from sfam_bench.app.settings import build
from sfam_bench.app.stored import admit_config
from sfam_bench.app.task import Task
from sfam_bench.app.work import Open, work
from sfam_bench.core.errors import UserError
from sfam_bench.jobs import local, slurm
from sfam_bench.jobs.job import DUE, Job, has_failed, is_done
from sfam_bench.jobs.notes import read_notes, remove_note, write_note
from sfam_bench.jobs.plan import FILE, AnyPlan, Plan, find_job
from sfam_bench.jobs.processes import UNKNOWN, check_process, is_alive, terminate
from sfam_bench.jobs.status import Status
from sfam_bench.jobs.watching import Reporter, read_status, read_submitted, wait
from sfam_bench.runs.store import RunStore

WORK = (sys.executable, "-m", "sfam_bench", "work")


def launch(cfg: DictConfig, root: Path, plan: AnyPlan, worker: Open | None = None) -> None:
    """Start the jobs that are not done; the launchers here and local return when no more can be done.

    `worker` replaces the plan's own worker in this process. UserError if another run is active.
    """
    check_launcher(cfg.launcher)
    check_plan(cfg, root, plan)
    with alone(root):
        if isinstance(plan, Plan):
            RunStore(root, plan.key, plan.passes).due(len(plan.batches))  # broken chunks are set aside
        else:
            plan.write(root)
        due = read_status(root, plan, cfg.gone).of_state(*DUE)
        for name in due:
            remove_note(root, "failures", name)
        print(f"{len(due)} of {len(plan.jobs)} {plan.word} to do", flush=True)
        LAUNCHERS[cfg.launcher](cfg, root, plan, due, worker)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock of a folder's run, since two would do the same jobs; UserError if another run is active."""
    try:
        with FileLock(root / "run.lock", timeout=1):
            yield
    except Timeout as error:
        raise UserError(f"another run is active in {root}: see sfam-bench submit status run_dir={root}") from error


def check_launcher(name: str) -> None:
    """Raise UserError for an unknown launcher."""
    if name not in LAUNCHERS:
        raise UserError(f"launcher={name}: choose {', '.join(LAUNCHERS)}")


def check_plan(cfg: DictConfig, root: Path, plan: AnyPlan) -> None:
    """Raise UserError, before any process starts, if the code has changed or the plan names objects not admitted."""
    if isinstance(plan, Plan):
        plan.check(root)
    admit_config(plan.config, root / FILE, cfg.allow)


def run_here(cfg: DictConfig, root: Path, plan: AnyPlan, due: Sequence[str], worker: Open | None) -> None:
    """Do jobs in this process, one after another; what it prints goes to logs/ID.log."""
    (root / "logs").mkdir(exist_ok=True)
    write_note(root, "launches", "here", due=due)
    try:
        for job in (find_job(plan.jobs, name) for name in due):
            needs = [find_job(plan.jobs, name) for name in job.after]
            if is_done(root, job) or has_failed(root, job) or not all(is_done(root, needed) for needed in needs):
                continue
            try:
                with (root / "logs" / f"{job.id}.log").open("a") as log, redirect_stdout(log):
                    stopped = work(root, job.id, allow=cfg.allow, worker=worker)
            except Exception as error:  # its traceback is in failures/
                print(f"{job.id} failed: {explain_error(error)}", file=sys.stderr, flush=True)
                continue
            if stopped:
                exit_stopped(stopped)
    finally:
        remove_note(root, "launches", "here")  # else what is not done would be queued for ever


def run_local(cfg: DictConfig, root: Path, plan: AnyPlan, due: Sequence[str], worker: Open | None) -> None:
    """Do jobs in processes of this machine; wait for those that workers of a killed driver are doing."""
    earlier = {job.id: note["pid"] for job in plan.jobs for note in living_notes(root, job.id).values()}
    if earlier:
        pids = ", ".join(str(pid) for pid in sorted(set(earlier.values())))
        print(f"waiting for processes of an earlier run: {pids}", flush=True)
    adopted = list(earlier)
    names = [*adopted, *(name for name in due if name not in adopted)]
    jobs = {name: find_job(plan.jobs, name) for name in names}
    if not jobs:
        return
    write_note(root, "launches", "here", due=names)
    claims = local.Claims(
        taken=lambda name: name in living_notes(root, name),
        done=lambda name: is_done(root, find_job(plan.jobs, name)),
        failed=lambda name: has_failed(root, jobs[name]),
        claim=lambda name, pid: write_note(root, "running", name, pid),
    )
    try:
        stopped = local.compute(
            build_commands(root, names, cfg.allow),
            count_workers(cfg),
            root / "logs",
            build(cfg.cluster).gpus,
            Reporter(root, plan, cfg.gone),
            claims,
            {name: job.after for name, job in jobs.items()},
        )
    finally:
        remove_note(root, "launches", "here")
    if stopped:
        exit_stopped(stopped)


def run_slurm(cfg: DictConfig, root: Path, plan: AnyPlan, due: Sequence[str], worker: Open | None) -> None:
    """Submit jobs to SLURM; a chain of jobs is one task there."""
    if not due:
        return
    before = read_submitted(root)
    slurm.cancel(before[name] for name in due if name in before)  # a held job might start later
    jobs = heads(plan, due)
    tasks = {job.id: Task(str(root), job.id, tuple(cfg.allow)) for job in jobs}
    known = slurm.queue({name: its for name, its in before.items() if name not in due})
    after = {job.id: job.after for job in jobs}
    found = slurm.submit(build(cfg.cluster), root / "logs", tasks, after, {name: before[name] for name in known})
    all_jobs = {each.id: found[job.id] for job in jobs for each in plan.chain(job.id)}
    write_note(root, "launches", f"{time.time_ns()}", jobs=all_jobs)
    print(f"submitted: {', '.join(sorted({its.split('_')[0] for its in found.values()}))}; logs: {root / 'logs'}")


LAUNCHERS: Mapping[str, Callable[[DictConfig, Path, AnyPlan, Sequence[str], Open | None], None]] = {
    "here": run_here,
    "local": run_local,
    "slurm": run_slurm,
}


def heads(plan: AnyPlan, due: Sequence[str]) -> list[Job]:
    """The jobs to start so that all due ones are done: the first due job of each chain."""
    jobs, followed = [find_job(plan.jobs, name) for name in due], set[str]()
    for job in jobs:
        followed |= {each.id for each in plan.chain(job.id)[1:]}
    return [job for job in jobs if job.id not in followed]


def living_notes(root: Path, job: str) -> dict[str, dict[str, Any]]:
    """The running note of a job, by its id, if its process is alive on this machine; else empty."""
    return {name: note for name, note in read_notes(root, "running", job).items() if is_alive(note)}


def exit_stopped(number: int) -> None:
    """Exit with the code of a process ended by a signal."""
    print("stopped: finished work is kept; run again to continue", file=sys.stderr)
    sys.exit(128 + number)


def detach(root: Path) -> None:
    """Start this command again in the background, with wait=true; UserError if another run is active."""
    note = read_notes(root, "launches").get("background")
    if note and is_alive(note):  # it may not hold the lock yet
        raise UserError(f"process {note['pid']} computes this already: see sfam-bench submit status run_dir={root}")
    with alone(root):
        pass
    (root / "logs").mkdir(exist_ok=True)
    with (root / "logs" / "run.log").open("ab") as log:
        command = [sys.executable, "-m", "sfam_bench", "submit", *sys.argv[1:], "wait=true"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    write_note(root, "launches", "background", process.pid)
    print(f"computing in the background, process {process.pid}: {root / 'logs' / 'run.log'}")


def describe_launch(cfg: DictConfig, root: Path, plan: AnyPlan) -> str:
    """The commands or the batch script that would be started (dry run)."""
    check_launcher(cfg.launcher)
    check_plan(cfg, root, plan)
    due = read_status(root, plan, cfg.gone).of_state(*DUE)
    if cfg.launcher == "slurm":
        return slurm.batch_script(build(cfg.cluster), root / "logs", max(1, len(heads(plan, due))))
    count = count_workers(cfg) if cfg.launcher == "local" else 1
    return "\n".join(f"{count} at a time: {' '.join(words)}" for words in build_commands(root, due, cfg.allow).values())


def build_commands(root: Path, names: Sequence[str], allow: Sequence[str]) -> dict[str, list[str]]:
    """The command of each job."""
    more = [f"allow=[{','.join(allow)}]"] if allow else []
    return {name: [*WORK, f"run_dir={root}", f"job={name}", *more] for name in names}


def count_workers(cfg: DictConfig) -> int:
    """The number of local worker processes: `workers`, or as many as fit."""
    return cfg.workers or max(1, len(os.sched_getaffinity(0)) // build(cfg.cluster).cpus)


def finish(cfg: DictConfig, root: Path, plan: AnyPlan) -> Status:
    """Wait until no job is active; UserError if jobs are not done."""
    now = wait(root, plan, cfg.gone)
    if not now.complete:
        print(now.troubles, file=sys.stderr)
        raise UserError(f"{now.line}; continue with sfam-bench submit run run_dir={root}")
    return now


def cancel(root: Path, plan: AnyPlan) -> Status:
    """Stop running and queued jobs and wait, up to a limit, for their end; finished work is kept."""
    slurm.cancel({its.split("_")[0] for its in read_submitted(root).values()})
    # the driver first, which would begin its processes again
    for note in [*read_notes(root, "launches").values(), *read_notes(root, "running").values()]:
        terminate(note)
    for job, note in read_notes(root, "running").items():
        if check_process(note) == UNKNOWN and not note["slurm"]:
            print(f"not stopped: {job}, process {note['pid']} of host {note['host']}: stop it there", file=sys.stderr)
    until = time.monotonic() + local.GRACE
    while (now := read_status(root, plan)).live and time.monotonic() < until:
        time.sleep(0.5)
    return now
