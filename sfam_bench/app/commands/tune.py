"""Tune a method's fields on training classes, the default first, and measure on other training classes what that gains.

Examples:

    sfam-bench tune experiment=planted space=sfam trials=10
    sfam-bench tune experiment=planted space=rise objective=insertion_mean_colour
    sfam-bench tune experiment=cub dataset.root=CUB_200_2011 space=sfam model.checkpoint=RUN/model.safetensors

Settings: run_dir, trials, objective, held_out, split.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import settle
from sfam_bench.app.settings import resolved
from sfam_bench.app.tuned import CHOSEN
from sfam_bench.app.tuning import Task
from sfam_bench.core.files import atomic, digest, probe
from sfam_bench.core.provenance import plain
from sfam_bench.core.stream import progress
from sfam_bench.report.tables.formats import csv
from sfam_bench.runs.continued import check_same, refuse
from sfam_bench.runs.store import PASSES, RunStore
from sfam_bench.tuning.studies import Study

TRIALS = "trials.csv"


@script("tune")
def main(cfg: DictConfig) -> None:
    run = Path(cfg.run_dir)
    refuse(run, cfg.resume)
    probe(run)
    task = Task.of(cfg)
    folds = task.folds()
    task.try_one(folds["tuning"])
    facts, store = task.facts(folds), RunStore(run)
    known = store.manifest
    if known:
        other = check_same(run, known, task.identity(), cfg.resume)
        facts |= {name: known[name] for name in ("git", "code", "versions", "resumed") if name in known}
        facts |= {"resumed": [*facts.get("resumed", []), other]} if other else {}
    run.mkdir(parents=True, exist_ok=True)
    better = facts["objective"]["higher_is_better"]
    opening = Study.opened(
        run / "study.db", task.space, task.default, better, cfg.seed, facts["config_hash"], bool(known)
    )
    with opening as study:
        keep_yaml(run / "config.yaml", resolved(cfg))
        facts["created"] = study.remember("created", datetime.now(UTC).isoformat(timespec="seconds"))
        store.write_manifest({**facts, "done": False})
        work = cfg.trials * sum(map(len, folds["tuning"].batches))
        frozen = study.base.user_attrs.get("passes")
        settle(cfg, task.model, frozen or {})
        passes = task.passes(folds["tuning"], frozen, work)
        study.remember("passes", {name: passes.facts[name] for name in PASSES})
        print(study.summary(cfg.trials))
        trials = study.run(cfg.trials, partial(task.measure, folds["tuning"], passes))
        for _ in progress(trials, "tune", cfg.trials - len(study.trials()), "trial"):
            pass
        best, done = study.best(), study.trials()
        keep_csv(run / TRIALS, pd.DataFrame([{**vars(trial), **trial.fields} for trial in done]))
        chosen = task.variant(best.fields)
        compared = {name: task.compared(fold, chosen, passes) for name, fold in folds.items()}
        keep_yaml(run / CHOSEN, {task.space.method: {**task.node, **best.fields}})
        failed = {trial.place: trial.reason for trial in done if trial.value is None}
        budget = {"trials": cfg.trials, "completed": len(done) - len(failed), "failed": len(failed), "lost": study.lost}
        outcome = {"budget": budget, "reasons": failed, "chosen": best.fields, "trial": best.place}
        outcome["files"] = {name: digest(run / name) for name in (CHOSEN, TRIALS)}
        store.write_manifest({**facts, **outcome, **compared, "passes": passes.facts, "done": True})
    print(said(task, best.fields, compared))
    print(f"tuned: {run / CHOSEN}; evaluate it with 'tuned=[{run}]'")


def said(task: Task, chosen: Mapping[str, Any], compared: Mapping[str, Mapping[str, Any]]) -> str:
    """What was chosen and what it gains, on the classes tuned on and on those held out."""
    departs = {name: value for name, value in chosen.items() if value != task.default[name]}
    lines = [
        f"{task.space.method}: " + (", ".join(f"{k}={v}" for k, v in departs.items()) or "the default is the best")
    ]
    for name, found in compared.items():
        lines.append(
            f"{task.cfg.objective} on {found['classes']} {name.replace('_', ' ')} classes: {found['chosen']:.4f}, "
            f"default {found['default']:.4f}, difference {found['difference']:+.4f} "
            f"[{found['low']:+.4f}, {found['high']:+.4f}], {found['pairs']} pairs"
        )
    return "\n".join(lines)


def keep_yaml(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(plain(content), sort_keys=False, allow_unicode=True))


def keep_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(csv(frame.drop(columns="fields")), encoding="utf-8")
