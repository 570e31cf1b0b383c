"""Plan, run, watch and merge jobs, here or on SLURM: submit plan|run|status|merge|cancel run_dir=...

plan accepts every setting of evaluate and divides the evaluation into shards; merge makes one run of their results.
run, status and cancel work on every folder with a plan: a planned evaluation, a sweep, a tuning study.

Examples:

    sfam-bench submit plan experiment=planted model.checkpoint=RUN/model.safetensors run_dir=results/big shards=4
    sfam-bench submit run run_dir=results/big workers=2 wait=true
    sfam-bench submit status run_dir=results/sweeps/gamma

Settings: run_dir, shards, task_minutes, launcher, workers, wait, dry_run, watch, partial.
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.launching import cancel, check_launcher, check_plan, describe_launch, detach, finish, launch
from sfam_bench.app.settings import build
from sfam_bench.app.stored import admit_config
from sfam_bench.app.sweeping import tabulate
from sfam_bench.core.errors import UserError
from sfam_bench.jobs.merge import merge
from sfam_bench.jobs.notes import read_notes
from sfam_bench.jobs.plan import FILE, PAIRS, AnyPlan, JobList, Plan, read_plan
from sfam_bench.jobs.watching import read_status, wait
from sfam_bench.runs.store import RunStore

LATER = (
    *("run_dir", "launcher", "workers", "wait", "dry_run", "watch", "partial"),
    *("allow", "gone", "cluster", "verb", "hydra"),
)


@script("submit", first="verb")
def main(cfg: DictConfig) -> None:
    if cfg.verb not in VERBS:
        raise UserError(f"unknown verb '{cfg.verb}': use submit {'|'.join(VERBS)} run_dir=...")
    given = [text.lstrip("+~").split("=")[0] for text in HydraConfig.get().overrides.task]
    if cfg.verb != "plan" and (frozen := [name for name in given if name.split(".")[0] not in LATER]):
        raise UserError(f"{frozen[0]} is frozen in the plan: give it to submit plan, with another run_dir")
    build(cfg.cluster)  # checked before anything is computed
    VERBS[cfg.verb](cfg)


def plan_evaluation(cfg: DictConfig) -> None:
    """Write the plan of an evaluation in shards."""
    from sfam_bench.app.planning import plan  # torch, which the other verbs do without

    plan(cfg)


def run(cfg: DictConfig) -> None:
    """Start the jobs that are not done."""
    root, plan = read_root(cfg)
    check_launcher(cfg.launcher)
    if cfg.dry_run:
        print(describe_launch(cfg, root, plan))
    elif cfg.launcher == "local" and not cfg.wait:
        check_plan(cfg, root, plan)  # here, where the user sees it
        detach(root)
    else:
        unchanged = read_status(root, plan, cfg.gone).complete
        launch(cfg, root, plan)
        if cfg.wait or cfg.launcher == "here":
            now = finish(cfg, root, plan)
            print(now.line)
            if isinstance(plan, JobList) and plan.kind == "sweep":
                tabulate(root, plan, now, unchanged)


def read_root(cfg: DictConfig) -> tuple[Path, AnyPlan]:
    """The folder, and its plan."""
    root = Path(cfg.run_dir).resolve()
    return root, read_plan(root)


def print_status(cfg: DictConfig) -> None:
    """Print the state of the jobs."""
    root, plan = read_root(cfg)
    now = wait(root, plan, cfg.gone) if cfg.watch else read_status(root, plan, cfg.gone)
    print("\n".join(filter(None, (now.line, now.troubles))))


def merge_shards(cfg: DictConfig) -> None:
    """Check all chunks and merge them into one run."""
    root = Path(cfg.run_dir).resolve()
    plan = Plan.read(root)
    notes = [
        note
        for note in chain(read_notes(root, "done").values(), read_notes(root, "failures").values())
        if "spent" in note
    ]
    count = sum(note["pairs"] for note in notes) or 1
    took = {name: 1000 * sum(note["spent"].get(name, 0.0) for note in notes) / count for name in plan.facts["cost"]}
    facts: dict[str, Any] = {name: made for name, made in plan.facts.items() if name != "identity"}
    facts["cost"] = {name: {**cost, "milliseconds": took[name]} for name, cost in facts["cost"].items()}
    planned = plan.batches[0] if plan.size else 0  # pairs that planning explained
    complete = sum(note["pairs"] for note in notes) + planned >= plan.pairs
    if complete and all("core_seconds" in note for note in notes) and "core_hours" in plan.facts:
        facts["core_hours"] += sum(note["core_seconds"] for note in notes) / 3600
    else:  # notes of a killed task are lost
        facts["core_hours"] = None
    merged = merge(root, plan, cfg.partial, facts)
    print(f"merged: {merged.rows} records of {merged.batches} batches: {root}")
    try:
        write_worst_images(cfg, root, plan)
    except UserError as error:
        print(f"the images of the worst pairs are not stored, so the page does not show these pairs: {error}")


def write_worst_images(cfg: DictConfig, root: Path, plan: Plan) -> None:
    """Store the images of the pairs with the worst values, which are known after the merge; UserError without data."""
    from sfam_bench.app.evaluation import Evaluation  # torch

    store = RunStore(root, plan.key)
    evaluation = Evaluation.of(admit_config(plan.config, root / FILE, cfg.allow))
    evaluation.write_worst_images(store, pd.read_parquet(root / PAIRS))
    store.write_manifest(store.manifest)


def cancel_jobs(cfg: DictConfig) -> None:
    """Stop running and queued jobs; finished work is kept."""
    root, plan = read_root(cfg)
    print(cancel(root, plan).line)


VERBS: dict[str, Callable[[DictConfig], None]] = {
    "plan": plan_evaluation,
    "run": run,
    "status": print_status,
    "merge": merge_shards,
    "cancel": cancel_jobs,
}
