"""Tune a method's settings on training classes; the gain over the defaults is measured on other training classes.

Examples:

    sfam-bench tune experiment=planted model.checkpoint=RUN/model.safetensors space=sfam trials=10
    sfam-bench tune experiment=planted model.checkpoint=RUN/model.safetensors space=rise trials=10
    sfam-bench tune experiment=cub dataset.root=CUB_200_2011 space=sfam model.checkpoint=RUN/model.safetensors

Settings: run_dir, trials, objective, held_out, split, launcher.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.launching import check_launcher, finish, launch
from sfam_bench.app.settings import build, resolve
from sfam_bench.app.stored import list_packages
from sfam_bench.app.trials import open_study, plan_trials, trial_worker, write_yaml
from sfam_bench.app.tuned import CHOSEN
from sfam_bench.app.tuning import Tuning
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable
from sfam_bench.runs.continued import check_same, refuse_results
from sfam_bench.runs.store import RunStore


@script("tune")
def main(cfg: DictConfig) -> None:
    run = Path(cfg.run_dir).resolve()
    check_launcher(cfg.launcher)
    build(cfg.cluster)  # checked before anything is computed
    refuse_results(run, cfg.resume)
    check_writable(run)
    tuning = Tuning.of(cfg)
    folds = tuning.folds()
    tuning.try_one(folds["tuning"])
    facts, store = tuning.facts(folds), RunStore(run)
    known = store.manifest
    if known:
        other = check_same(run, known, tuning.identity(), cfg.resume)
        facts |= {name: known[name] for name in ("git", "code", "versions", "resumed") if name in known}
        facts |= {"resumed": [*facts.get("resumed", []), other]} if other else {}
    run.mkdir(parents=True, exist_ok=True)
    plan = plan_trials(resolve(cfg), cfg.trials)
    cfg.allow = [*cfg.allow, *list_packages(plan.config)]
    with open_study(run, tuning, facts, bool(known)) as study:
        if (done := len(study.trials())) > cfg.trials:
            raise UserError(f"{run} has {done} trials, and trials={cfg.trials}: set trials={done} or more")
        write_yaml(run / "config.yaml", plan.config)
        facts["created"] = study.remember("created", datetime.now(UTC).isoformat(timespec="seconds"))
        store.write_manifest({**facts, "done": False})
        print(study.summary(cfg.trials))
    launch(cfg, run, plan, partial(trial_worker, made=(tuning, folds)))
    finish(cfg, run, plan)
    print(describe_outcome(cfg.objective, store.manifest))
    print(f"tuned: {run / CHOSEN}; evaluate it with 'tuned=[{run}]'")


def describe_outcome(objective: str, manifest: Mapping[str, Any]) -> str:
    """The chosen setting and its gain, on tuning classes and on held-out classes."""
    departs = {name: value for name, value in manifest["chosen"].items() if value != manifest["default"][name]}
    chosen = ", ".join(f"{name}={value}" for name, value in departs.items()) or "the default is the best"
    lines = [f"{manifest['method']}: {chosen}"]
    for name in ("tuning", "held_out"):
        found = manifest[name]
        lines.append(
            f"{objective} on {found['classes']} {name.replace('_', ' ')} classes: {found['chosen']:.4f}, "
            f"default {found['default']:.4f}, difference {found['difference']:+.4f} "
            f"[{found['low']:+.4f}, {found['high']:+.4f}], {found['pairs']} pairs"
        )
    return "\n".join(lines)
