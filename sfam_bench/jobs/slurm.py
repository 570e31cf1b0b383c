"""Jobs on SLURM: arrays by submitit, states by squeue, which every cluster has."""

import os
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.jobs.job import Job, group_by_need
from sfam_bench.jobs.plan import MOST

REQUEUED = 20  # times that a task may reach its time limit: it continues where it stopped
AT_WORK = ("RUNNING", "COMPLETING", "STOPPED", "SUSPENDED")


@dataclass(frozen=True)
class Request(Checked):
    """The resources that a task requests from SLURM; null leaves a value to the cluster.

    account, partition: names that your cluster gave you. gpus, cpus: of each task. memory: GB of each task.
    minutes: after which SLURM ends a task, `warning` seconds before which it is told to stop, and queued again.
    at_once: tasks that may run at the same time. setup: shell lines before each task, such as module load.
    """

    account: str | None = None
    partition: str | None = None
    gpus: Natural = 0
    cpus: Count = 2
    memory: Positive | None = None
    minutes: Count = 60
    warning: Natural = 90
    at_once: Count = 256
    setup: list[str] = field(default_factory=list)

    def parameters(self) -> dict[str, Any]:
        """The request as parameters of submitit."""
        asked = {
            "account": self.account,
            "partition": self.partition,
            "gpus_per_node": self.gpus or None,
            "mem": f"{self.memory}GB" if self.memory else None,
            "setup": list(self.setup) or None,
        }
        return {
            **{name: value for name, value in asked.items() if value is not None},
            **{"job_name": "sfam_bench", "cpus_per_task": self.cpus, "time": self.minutes},
            **{"signal_delay_s": self.warning, "array_parallelism": self.at_once, "stderr_to_stdout": True},
        }


# of what begins with PREFIXES: where SLURM is; further wishes of the user, which no setting of Request contradicts
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT")
PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_")
OF_A_JOB = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")


@contextmanager
def clean_environment(request: Request) -> Iterator[None]:
    """Remove the SLURM variables of the current job, which sbatch and the new job would inherit.

    Variables of sbatch that contradict a setting of the request are left out too, since they would win over it.
    """
    kept = {*KEPT, *(f"SBATCH_{name.upper()}" for name in ("account", "partition") if getattr(request, name) is None)}
    inherited = OF_A_JOB if "SLURM_JOB_ID" in os.environ else ()
    before = dict(os.environ)
    for name in before:
        if (name.startswith(PREFIXES) and name not in kept) or name in inherited:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def executor(request: Request, folder: Path) -> Any:
    """submitit's executor; scripts, logs and pickled tasks are in `folder`."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("SLURM needs submitit: pip install '.[cluster]' in the clone") from error
    try:
        made = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUED)
    except RuntimeError as error:
        raise UserError(
            "SLURM is not installed here (no srun): log in to the cluster, or use launcher=local"
        ) from error
    made.update_parameters(**request.parameters())
    return made


def batch_script(request: Request, folder: Path, tasks: int) -> str:
    """The batch script for an array of `tasks` tasks."""
    made = executor(request, folder)
    made.parameters["map_count"] = tasks
    return str(made._make_submission_file_text(made._submitit_command_str, "dry-run"))


def submit(
    request: Request,
    folder: Path,
    tasks: Mapping[str, Callable[[], object]],
    after: Mapping[str, Collection[str]] = MappingProxyType({}),
    queued: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Submit arrays of at most 1,000 tasks; the id in SLURM of each.

    An array starts once all that its tasks need (`after`) has ended; `queued` are ids of what is in the queue.
    """
    found, jobs = dict[str, str](), [Job(name, [*after.get(name, ())]) for name in tasks]
    for level in group_by_need(jobs):
        known = {**queued, **found}
        needed = sorted({known[name].split("_")[0] for job in level for name in job.after if name in known})
        made = executor(request, folder)
        if needed:
            made.update_parameters(dependency=f"afterany:{':'.join(needed)}")
        for start in range(0, len(level), MOST):
            part = [job.id for job in level[start : start + MOST]]
            try:
                with clean_environment(request), made.batch():
                    submitted = [made.submit(tasks[name]) for name in part]
            except Exception as error:  # submitit's, of several kinds; sbatch's own words are on the terminal already
                why = "sbatch refused the array for the reason above: check cluster.* by dry_run=true"
                raise UserError(why) from error
            found.update({name: str(job.job_id) for name, job in zip(part, submitted, strict=True)})
    return found


def queue(jobs: Mapping[str, str]) -> dict[str, str]:
    """The state of the jobs in SLURM's queue: "running", "queued" or "held"; `jobs` maps job to SLURM id."""
    if not jobs:
        return {}
    arrays = sorted({job.split("_")[0] for job in jobs.values()})
    command = ["squeue", "--noheader", "--array", "--jobs", ",".join(arrays), "--format", "%i|%T|%r"]
    lines = (line.split("|") for line in run_query(command).splitlines())
    states = {job: parse_state(state, reason) for job, state, reason in lines}
    return {name: states[job] for name, job in jobs.items() if job in states}


def parse_state(state: str, reason: str) -> str:
    """Our name for a SLURM state; "held" is a task that will not start by itself, as after a node failure."""
    if "held" in reason.lower() or reason == "DependencyNeverSatisfied":
        return "held"
    return "running" if state in AT_WORK else "queued"


def cancel(jobs: Iterable[str]) -> None:
    """Cancel queued and running jobs."""
    if wanted := sorted(set(jobs)):
        run_query(["scancel", *wanted])


def run_query(command: Sequence[str]) -> str:
    """The output of a SLURM command; empty if it knows none of the jobs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"cannot ask SLURM ({command[0]}: {error}): is it up, and are you on its login node?"
        ) from error
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UserError(f"{command[0]} failed ({' '.join(done.stderr.split())[-300:]}): is SLURM up?")
    return done.stdout
