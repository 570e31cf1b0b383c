"""A search for the fields of one method, stored in a database trial by trial; the caller provides the objective.

A trial's place is the number of trials finished before it. Its setting depends only on the seed, the place and the
finished trials, so that an interrupted study continues exactly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError, first_line, one_line
from sfam_bench.core.files import acquire_lock
from sfam_bench.core.provenance import to_plain
from sfam_bench.tuning.spaces import Space, load_optuna

if TYPE_CHECKING:
    import optuna

Fields = Mapping[str, Any]
Measure = Callable[[Fields], pd.Series]  # value of the objective for each pair, NaN if undefined
NAME = "tuning"
REFUSED = (UserError, ValueError, RuntimeError)  # errors of a method for an invalid value


@dataclass(frozen=True)
class Trial:
    """One setting and its value, None if it failed for a `reason`."""

    place: int
    fields: dict[str, Any]
    value: float | None
    reason: str
    seconds: float


@dataclass
class Study:
    """Trials of a space in a database, the default first; open it with `Study.open`."""

    base: "optuna.Study"
    space: Space
    default: dict[str, Any]
    higher: bool
    seed: int
    distributions: dict[str, "optuna.distributions.BaseDistribution"]

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, space: Space, default: Fields, higher: bool, seed: int, identity: str, known: bool
    ) -> Iterator["Study"]:
        """Open the study in the file `path`, or create it; UserError if it has another `identity`.

        `known`: the study exists, so that an empty file is an error.
        """
        distributions = space.distributions(default)
        lock = acquire_lock(path.with_name(f".{path.name}.lock"), f"{path.parent} is being tuned")
        with lock, explain_database_errors(path):
            base = load_study(path, higher, known)
            if base.user_attrs.setdefault("identity", identity) != identity:
                raise UserError(
                    f"{path} is a study of another config: restore it (config.yaml beside it), or change run_dir"
                )
            base.set_user_attr("identity", identity)
            study = cls(base, space, dict(default), higher, seed, distributions)
            for trial in base.get_trials(states=(trial_state().RUNNING,)):  # of a killed run
                base.tell(trial.number, state=trial_state().FAIL)
            yield study

    def trials(self) -> list[Trial]:
        """The finished trials, in order."""
        return [
            Trial(
                place,
                dict(trial.params),
                trial.value if trial.state == trial_state().COMPLETE else None,
                trial.user_attrs.get("reason", ""),
                trial.duration.total_seconds() if trial.duration else 0.0,
            )
            for place, trial in enumerate(self._finished_trials())
        ]

    def count_interrupted(self) -> int:
        """The number of trials that were running when a run was killed."""
        failed = sum(trial.value is None for trial in self.trials())
        return len(self.base.get_trials(states=(trial_state().FAIL,))) - failed

    def run(self, trials: int, measure: Measure) -> Iterator[Trial]:
        """Run trials until `trials` are finished; yields each new one."""
        while (place := len(self._finished_trials())) < trials:
            self._run_trial(place, measure)
            yield self.trials()[place]

    def best(self) -> Trial:
        """The best trial; of equal ones that with the fewest changes of the default, then the first."""
        done, sign = [trial for trial in self.trials() if trial.value is not None], 1 if self.higher else -1
        return max(done, key=lambda trial: (sign * (trial.value or 0), -len(self.departures(trial)), -trial.place))

    def departures(self, trial: Trial) -> list[str]:
        """The fields in which a trial differs from the default."""
        return [name for name, value in trial.fields.items() if value != self.default[name]]

    def summary(self, trials: int) -> str:
        """The numbers of finished and remaining trials, in one line."""
        done = len(self._finished_trials())
        return f"{self.space.method}: {done} of {trials} trials are done, {max(trials - done, 0)} to come"

    def remember(self, name: str, fact: Any) -> Any:
        """Return a fact of the study, storing it at the first call."""
        if name not in self.base.user_attrs:
            self.base.set_user_attr(name, to_plain(fact))
        return self.base.user_attrs[name]

    def _finished_trials(self) -> list["optuna.trial.FrozenTrial"]:
        trials = self.base.get_trials(deepcopy=False, states=(trial_state().COMPLETE, trial_state().FAIL))
        return [trial for trial in trials if trial.state == trial_state().COMPLETE or "reason" in trial.user_attrs]

    def _run_trial(self, place: int, measure: Measure) -> None:
        finished = self._finished_trials()
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        self.base.sampler = load_optuna().samplers.TPESampler(seed=seed)
        if place == 0 and not self.base.get_trials(states=(trial_state().WAITING,)):
            self.base.enqueue_trial(self.default)
        trial = self.base.ask(self.distributions)
        earlier = next((old for old in finished if old.params == trial.params), None)
        try:
            if earlier and "reason" in earlier.user_attrs:
                raise UserError(earlier.user_attrs["reason"])
            values = earlier.user_attrs["values"] if earlier else measure(trial.params).tolist()
            against = finished[0].user_attrs["values"] if finished else values
            value = objective(values, against)
        except REFUSED as error:
            if place == 0:
                self.base.tell(trial, state=trial_state().FAIL)
                raise
            trial.set_user_attr("reason", one_line(error))
            self.base.tell(trial, state=trial_state().FAIL)
            return
        trial.set_user_attr("values", values)
        self.base.tell(trial, value)


def objective(values: Sequence[float], default: Sequence[float]) -> float:
    """The mean over the pairs on which the default is defined; UserError if a value is undefined on one of them.

    Otherwise a setting could win by being undefined on the hard pairs.
    """
    found, needed = np.asarray(values, float), np.isfinite(np.asarray(default, float))
    if not needed.any():
        raise UserError("the default leaves the objective undefined on every pair: choose another objective or pairs")
    if missing := int((~np.isfinite(found[needed])).sum()):
        raise UserError(f"it leaves {missing} of the {needed.sum()} pairs undefined that the default defines")
    return float(found[needed].mean())


def split_classes(classes: Sequence[int], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Split classes into those to tune on and a share held out, which shows whether a gain generalises."""
    order = np.random.default_rng(seed).permutation(sorted(set(classes))).tolist()
    kept = len(order) - round(held_out * len(order))
    if not 0 < held_out < 1 or min(kept, len(order) - kept) < 2:
        raise UserError(
            f"held_out={held_out} of {len(order)} training classes leaves fewer than two to tune on or to hold out: "
            "choose a share between 0 and 1, or more classes"
        )
    return sorted(order[:kept]), sorted(order[kept:])


def load_study(path: Path, higher: bool, known: bool) -> "optuna.Study":
    """Load the study of a database, creating it if it does not exist."""
    optuna = load_optuna()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    if known and NAME not in [study.study_name for study in storage.get_all_studies()]:
        raise UserError(f"{path} holds no study any more: restore it, or choose another run_dir")
    direction = "maximize" if higher else "minimize"
    return optuna.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)


@contextmanager
def explain_database_errors(path: Path) -> Iterator[None]:
    """Raise UserError if the block fails because the database is damaged or cannot be written."""
    from sqlalchemy.exc import SQLAlchemyError

    damaged = (SQLAlchemyError, load_optuna().exceptions.StorageInternalError)
    try:
        yield
    except damaged as error:
        cause = error.__cause__ or error
        raise UserError(
            f"cannot use {path} ({first_line(cause)}): restore it, free space, or choose another run_dir"
        ) from error


def trial_state() -> type["optuna.trial.TrialState"]:
    """Optuna's states of a trial."""
    return load_optuna().trial.TrialState
