"""Run a big evaluation in shards, here or on SLURM: submit plan|run|status|merge|cancel run_dir=...

plan takes every setting of evaluate; the other verbs read them from the plan.

Examples:

    sfam-bench submit plan experiment=planted run_dir=results/big shards=4
    sfam-bench submit run run_dir=results/big workers=2 wait=true
    sfam-bench submit merge run_dir=results/big

Settings: run_dir, shards, task_minutes, launcher, workers, wait, dry_run, watch, partial.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.settings import build
from sfam_bench.app.stored import stored
from sfam_bench.app.task import Task
from sfam_bench.app.watching import Teller, awaited, state, submitted
from sfam_bench.core.errors import UserError
from sfam_bench.jobs import local, slurm
from sfam_bench.jobs.merge import merge
from sfam_bench.jobs.notes import leave, left
from sfam_bench.jobs.plan import FILE, Plan
from sfam_bench.jobs.processes import UNKNOWN, alive, standing, terminate
from sfam_bench.jobs.status import DUE
from sfam_bench.runs.store import RunStore

LATER = (
    *("run_dir", "launcher", "workers", "wait", "dry_run", "watch", "partial"),
    *("allow", "gone", "cluster", "verb", "hydra"),
)
WORK = ("-m", "sfam_bench", "work")


@script("submit", first="verb")
def main(cfg: DictConfig) -> None:
    if cfg.verb not in VERBS:
        raise UserError(f"'{cfg.verb}' is no verb: say submit.py {'|'.join(VERBS)} run_dir=...")
    given = [text.lstrip("+~").split("=")[0] for text in HydraConfig.get().overrides.task]
    if cfg.verb != "plan" and (frozen := [name for name in given if name.split(".")[0] not in LATER]):
        raise UserError(f"{frozen[0]} is frozen in the plan: give it to submit.py plan, with another run_dir")
    build(cfg.cluster)  # checked before anything is computed
    VERBS[cfg.verb](cfg)


def plan(cfg: DictConfig) -> None:
    """Freeze an evaluation, and cut it into shards."""
    from sfam_bench.app.planning import plan as planned  # torch, which the other verbs do without

    planned(cfg)


def run(cfg: DictConfig) -> None:
    """Have computed what is missing."""
    root, found = opened(cfg)
    found.check(root)
    stored(found.config, root / FILE, cfg.allow)  # refused here, before any process is started
    if cfg.launcher not in LAUNCHERS:
        raise UserError(f"launcher={cfg.launcher}: choose {', '.join(LAUNCHERS)}")
    if cfg.launcher == "local" and not cfg.wait and not cfg.dry_run:
        return detached(root)
    try:
        with FileLock(root / "run.lock", timeout=1):  # two runs at once would compute the same shards
            RunStore(root, found.key, found.passes).due(len(found.batches))  # broken pieces are set aside
            due = state(root, found, cfg.gone).of_state(*DUE)
            if cfg.dry_run:
                return print(rehearsed(cfg, root, due))
            for shard in due:
                (root / "failures" / f"{shard}.json").unlink(missing_ok=True)
            print(f"{len(due)} of {len(found.shards)} shards to compute", flush=True)
            LAUNCHERS[cfg.launcher](cfg, root, found, due)
    except Timeout as error:
        raise UserError(f"another run is at work on {root}: see submit.py status run_dir={root}") from error
    if not cfg.wait:
        return None
    now = awaited(root, found, cfg.gone)
    if len(now.of_state("done")) < len(found.shards):
        print(now.troubles, file=sys.stderr)
        raise UserError(f"{now.line}; what is not done is computed by submit.py run run_dir={root}")
    return print(now.line)


def here(cfg: DictConfig, root: Path, found: Plan, due: list[str]) -> None:
    """Compute shards on this machine; what workers of a killed driver compute is awaited first."""
    adopted = [shard for shard, note in left(root, "running").items() if alive(note) and shard in found.by_id]
    if adopted:
        print(f"{len(adopted)} shards are being computed by processes of an earlier run: waiting for them", flush=True)
    if not (shards := [*adopted, *(shard for shard in due if shard not in adopted)]):
        return
    leave(root, "jobs", "here", due=shards)

    def taken(shard: str) -> bool:
        return (note := left(root, "running", shard).get(shard)) is not None and alive(note)

    def ended(shard: str) -> bool:
        return shard in state(root, found, cfg.gone).of_state("done")

    try:
        stopped = local.compute(
            commands(root, shards, cfg.allow),
            workers(cfg),
            root / "logs",
            build(cfg.cluster).gpus,
            Teller(root, found, cfg.gone),
            local.Claims(taken, ended, lambda shard, pid: leave(root, "running", shard, pid)),
        )
    finally:
        (root / "jobs" / "here.json").unlink(missing_ok=True)  # else what is not done would be queued for ever
    if stopped:
        print("stopped: what was done is kept; submit.py run goes on", file=sys.stderr)
        sys.exit(128 + stopped)


def on_slurm(cfg: DictConfig, root: Path, found: Plan, due: list[str]) -> None:
    """Submit shards to SLURM."""
    if not due:
        return
    before = submitted(root)
    slurm.cancel(before[shard] for shard in due if shard in before)  # what is held there would begin some day
    jobs = slurm.submit(
        build(cfg.cluster), root / "logs", {shard: Task(str(root), shard, tuple(cfg.allow)) for shard in due}
    )
    leave(root, "jobs", f"{time.time_ns()}", jobs=jobs)
    print(f"submitted: {', '.join(sorted({job.split('_')[0] for job in jobs.values()}))}; logs: {root / 'logs'}")


LAUNCHERS = {"local": here, "slurm": on_slurm}


def detached(root: Path) -> None:
    """Begin the same again in the background."""
    (root / "logs").mkdir(exist_ok=True)
    with (root / "logs" / "run.log").open("ab") as log:
        command = [sys.executable, *sys.argv, "wait=true"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    leave(root, "jobs", "background", process.pid)
    print(f"computing in the background, process {process.pid}: {root / 'logs' / 'run.log'}")


def rehearsed(cfg: DictConfig, root: Path, due: list[str]) -> str:
    """What would be started."""
    if cfg.launcher == "slurm":
        return slurm.script(build(cfg.cluster), root / "logs", max(1, len(due)))
    return "\n".join(
        f"{workers(cfg)} at a time: {' '.join(command)}" for command in commands(root, due, cfg.allow).values()
    )


def commands(root: Path, due: list[str], allow: Sequence[str]) -> dict[str, list[str]]:
    """The command of each shard."""
    more = [f"allow=[{','.join(allow)}]"] if allow else []
    return {shard: [sys.executable, *WORK, f"run_dir={root}", f"shard={shard}", *more] for shard in due}


def workers(cfg: DictConfig) -> int:
    """Processes on this machine: as many as were asked for, or as fit."""
    return cfg.workers or max(1, len(os.sched_getaffinity(0)) // build(cfg.cluster).cpus)


def opened(cfg: DictConfig) -> tuple[Path, Plan]:
    """The run folder, and its plan."""
    root = Path(cfg.run_dir).resolve()
    return root, Plan.read(root)


def status(cfg: DictConfig) -> None:
    """Say how it stands."""
    root, found = opened(cfg)
    now = awaited(root, found, cfg.gone) if cfg.watch else state(root, found, cfg.gone)
    print("\n".join(filter(None, (now.line, now.troubles))))


def merged(cfg: DictConfig) -> None:
    """Check all pieces, and make one run of them."""
    root, found = opened(cfg)
    notes = left(root, "shards").values()
    count = sum(note["pairs"] for note in notes) or 1
    took = {name: 1000 * sum(note["spent"].get(name, 0.0) for note in notes) / count for name in found.facts["cost"]}
    facts: dict[str, Any] = {name: made for name, made in found.facts.items() if name != "identity"}
    facts["cost"] = {name: {**cost, "milliseconds": took[name]} for name, cost in facts["cost"].items()}
    done = merge(root, found, cfg.partial, facts)
    print(f"merged: {done.rows} records of {done.batches} batches: {root}")


def cancel(cfg: DictConfig) -> None:
    """Stop what is at work or waits; what is done is kept."""
    root, found = opened(cfg)
    slurm.cancel({job.split("_")[0] for job in submitted(root).values()})
    # the driver first, which would begin its processes again
    for note in [*left(root, "jobs").values(), *left(root, "running").values()]:
        terminate(note)
    for shard, note in left(root, "running").items():
        if standing(note) == UNKNOWN and not note["job"]:
            print(f"not stopped: {shard}, process {note['pid']} of host {note['host']}: stop it there", file=sys.stderr)
    print(state(root, found).line)


VERBS: dict[str, Callable[[DictConfig], None]] = {
    "plan": plan,
    "run": run,
    "status": status,
    "merge": merged,
    "cancel": cancel,
}
