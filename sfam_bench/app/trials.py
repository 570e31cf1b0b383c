"""Do the trials of a study in one process, one after another, and compare the chosen setting with the default."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sfam_bench.app.parts import restore_passes, use_allotted_threads
from sfam_bench.app.stored import admit_config
from sfam_bench.app.tuned import CHOSEN
from sfam_bench.app.tuning import Fold, Tuning
from sfam_bench.app.work import Perform, Signals
from sfam_bench.core.files import digest, write_text
from sfam_bench.core.provenance import to_plain
from sfam_bench.engine.passes import Passes
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.plan import FILE, JobList
from sfam_bench.report.tables.formats import to_csv
from sfam_bench.runs.continued import check_same
from sfam_bench.runs.store import PASSES, RunStore
from sfam_bench.tuning.studies import Study

DATABASE, TRIALS = "study.db", "trials.csv"
TRIAL, COMPARISON = "trial-{:04d}", "comparison-of-{:04d}"  # ids of jobs
Folds = Mapping[str, Fold]


def plan_trials(config: Mapping[str, Any], trials: int) -> JobList:
    """The jobs of a study: its trials, each after the one before, and the comparison of the best with the default."""
    names = [TRIAL.format(place) for place in range(trials)]
    jobs = [Job(name, names[max(0, place - 1) : place], [DATABASE]) for place, name in enumerate(names)]
    jobs.append(Job(COMPARISON.format(trials), names[-1:], [DATABASE, CHOSEN, TRIALS]))
    return JobList("study", str(Path.cwd()), jobs, chained=True, config=dict(config))


@contextmanager
def open_study(root: Path, tuning: Tuning, facts: Mapping[str, Any], known: bool) -> Iterator[Study]:
    """Open the study in a folder's database; `known` if it exists already."""
    better = facts["objective"]["higher_is_better"]
    settings = (tuning.space, tuning.default, better, tuning.cfg.seed, facts["config_hash"], known)
    with Study.open(root / DATABASE, *settings) as study:
        yield study


@contextmanager
def trial_worker(
    root: Path, plan: JobList, first: Job, allow: Sequence[str], made: tuple[Tuning, Folds] | None = None
) -> Iterator[Perform]:
    """A worker for trials and the final comparison; `made` are the objects of the config, if already built."""
    use_allotted_threads()
    tuning = made[0] if made else Tuning.of(admit_config({**plan.config, "run_dir": str(root)}, root / FILE, allow))
    cfg, store = tuning.cfg, RunStore(root)
    facts = store.manifest
    check_same(root, facts, tuning.identity(), cfg.resume)
    folds = made[1] if made else tuning.folds()
    with open_study(root, tuning, facts, True) as study:
        frozen = study.base.user_attrs.get("passes")
        restore_passes(cfg, tuning.model, frozen or {})
        passes = tuning.passes(folds["tuning"], frozen, cfg.trials * sum(map(len, folds["tuning"].batches)))
        study.remember("passes", {name: passes.facts[name] for name in PASSES})
        ids = [job.id for job in plan.jobs]

        def perform(job: Job, stop_at: Signals) -> dict[str, Any]:
            if job == plan.jobs[-1]:
                compare(root, study, tuning, folds, passes)
                return {}
            for _ in study.run(ids.index(job.id) + 1, partial(tuning.measure, folds["tuning"], passes)):
                pass
            trial = study.trials()[ids.index(job.id)]
            return {"fields": trial.fields, "value": trial.value, "reason": trial.reason}

        yield perform


def compare(root: Path, study: Study, tuning: Tuning, folds: Folds, passes: Passes) -> None:
    """Write the trials, the chosen setting, and its gain over the default on both folds."""
    best, done, store = study.best(), study.trials(), RunStore(root)
    write_csv(root / TRIALS, pd.DataFrame([{**vars(trial), **trial.fields} for trial in done]))
    chosen = tuning.variant(best.fields)
    compared = {name: tuning.compare(fold, chosen, passes) for name, fold in folds.items()}
    write_yaml(root / CHOSEN, {tuning.space.method: {**tuning.node, **best.fields}})
    failed = {trial.place: trial.reason for trial in done if trial.value is None}
    counts = {"completed": len(done) - len(failed), "failed": len(failed), "lost": study.count_interrupted()}
    outcome = {"budget": {"trials": tuning.cfg.trials, **counts}, "reasons": failed}
    outcome |= {"chosen": best.fields, "trial": best.place, "passes": passes.facts}
    outcome["files"] = {name: digest(root / name) for name in (CHOSEN, TRIALS)}
    store.write_manifest({**store.manifest, **outcome, **compared, "done": True})


def write_yaml(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    write_text(path, yaml.safe_dump(to_plain(content), sort_keys=False, allow_unicode=True))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table whole or not at all."""
    write_text(path, to_csv(frame.drop(columns="fields")))
