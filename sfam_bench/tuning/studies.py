"""A search for the fields of one method, kept in a database trial by trial; what is measured is the caller's.

A trial's place is how many were finished before it. What it tries depends on the seed, its place and the finished
trials alone, so that a study that was stopped goes on as if it had not been.
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import to_plain
from sfam_bench.tuning.spaces import Space, load_optuna

if TYPE_CHECKING:
    import optuna

Fields = Mapping[str, Any]
Measure = Callable[[Fields], pd.Series]  # value of the objective by pair, NaN where it is undefined
NAME = "tuning"
REFUSED = (UserError, ValueError, RuntimeError)  # what a method says of a value that it does not take


@dataclass(frozen=True)
class Trial:
    """One setting that was tried; `value` is None where it failed, for a `reason`."""

    place: int
    fields: dict[str, Any]
    value: float | None
    reason: str
    seconds: float


@dataclass
class Study:
    """Trials of a space in a database, the default first; make it with `Study.open`."""

    base: "optuna.Study"
    space: Space
    default: dict[str, Any]
    higher: bool
    seed: int
    distributions: dict[str, "optuna.distributions.BaseDistribution"] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, space: Space, default: Fields, higher: bool, seed: int, identity: str, known: bool
    ) -> Iterator["Study"]:
        """The study in the file `path`, begun anew or gone on with; UserError where it is of another `identity`.

        `known`: it was begun before, so that an empty file is damage.
        """
        distributions = space.distributions(default)
        with lock_study(path), explain_database_errors(path):
            base = load_study(path, higher, known)
            if base.user_attrs.setdefault("identity", identity) != identity:
                raise UserError(
                    f"{path} is a study of another config: restore it (config.yaml beside it), or change run_dir"
                )
            base.set_user_attr("identity", identity)
            study = cls(base, space, dict(default), higher, seed, distributions)
            for left in base.get_trials(states=(trial_state().RUNNING,)):  # by a run that was killed
                base.tell(left.number, state=trial_state().FAIL)
            yield study

    def trials(self) -> list[Trial]:
        """The finished ones, in order."""
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

    @property
    def lost(self) -> int:
        """How many were under way when a run was killed."""
        return len(self.base.get_trials(states=(trial_state().FAIL,))) - sum(
            trial.value is None for trial in self.trials()
        )

    def run(self, trials: int, measure: Measure) -> Iterator[Trial]:
        """Try until so many trials are finished."""
        while (place := len(self._finished_trials())) < trials:
            self._try(place, measure)
            yield self.trials()[place]

    def best(self) -> Trial:
        """The best trial; among equals the one that departs from the default in the fewest fields, then the first."""
        done = [trial for trial in self.trials() if trial.value is not None]
        return max(done, key=lambda trial: (self._to_objective(trial), -len(self.departures(trial)), -trial.place))

    def departures(self, trial: Trial) -> list[str]:
        """The fields in which a trial is not the default."""
        return [name for name, value in trial.fields.items() if value != self.default[name]]

    def summary(self, trials: int) -> str:
        """What is there and what is to come, in one line."""
        done = len(self._finished_trials())
        return f"{self.space.method}: {done} of {trials} trials are done, {max(trials - done, 0)} to come"

    def remember(self, name: str, fact: Any) -> Any:
        """A fact of the study, as it was the first time."""
        if name not in self.base.user_attrs:
            self.base.set_user_attr(name, to_plain(fact))
        return self.base.user_attrs[name]

    def _to_objective(self, trial: Trial) -> float:
        assert trial.value is not None
        return trial.value if self.higher else -trial.value

    def _finished_trials(self) -> list["optuna.trial.FrozenTrial"]:
        trials = self.base.get_trials(deepcopy=False, states=(trial_state().COMPLETE, trial_state().FAIL))
        return [trial for trial in trials if trial.state == trial_state().COMPLETE or "reason" in trial.user_attrs]

    def _try(self, place: int, measure: Measure) -> None:
        finished = self._finished_trials()
        self.base.sampler = load_optuna().samplers.TPESampler(seed=seed_of(self.seed, place))
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
            trial.set_user_attr("reason", " ".join(str(error).split()) or repr(error))
            self.base.tell(trial, state=trial_state().FAIL)
            return
        trial.set_user_attr("values", values)
        self.base.tell(trial, value)


def objective(values: Sequence[float], default: Sequence[float]) -> float:
    """The mean over the pairs that the default defines; UserError where the values lack one of them.

    A setting that could leave pairs undefined could win by leaving out the hard ones.
    """
    ours, needed = np.isfinite(np.asarray(values, float)), np.isfinite(np.asarray(default, float))
    if not needed.any():
        raise UserError("the default leaves the objective undefined on every pair: choose another objective or pairs")
    if missing := int((needed & ~ours).sum()):
        raise UserError(f"it leaves {missing} of the {int(needed.sum())} pairs undefined that the default defines")
    return float(np.asarray(values, float)[needed].mean())


def split_classes(classes: Sequence[int], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Classes to tune on, and a share of them held out, which tells a gain from luck."""
    order = np.random.default_rng(seed).permutation(sorted(set(classes))).tolist()
    kept = len(order) - round(held_out * len(order))
    if not 0 < held_out < 1 or min(kept, len(order) - kept) < 2:
        raise UserError(
            f"held_out={held_out} of {len(order)} training classes leaves fewer than two to tune on or to hold out: "
            "choose a share between 0 and 1, or more classes"
        )
    return sorted(order[:kept]), sorted(order[kept:])


def seed_of(seed: int, place: int) -> int:
    """The seed of the sampler at one place."""
    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])


def load_study(path: Path, higher: bool, known: bool) -> "optuna.Study":
    """The study in a database, which is made where there is none."""
    optuna = load_optuna()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    if known and NAME not in [study.study_name for study in storage.get_all_studies()]:
        raise UserError(f"{path} holds no study any more: restore it, or choose another run_dir")
    direction = "maximize" if higher else "minimize"
    return optuna.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)


@contextmanager
def explain_database_errors(path: Path) -> Iterator[None]:
    """Say in one line that a database is damaged, or cannot be written."""
    from sqlalchemy.exc import SQLAlchemyError

    damaged = (SQLAlchemyError, load_optuna().exceptions.StorageInternalError)
    try:
        yield
    except damaged as error:
        cause = error.__cause__ or error
        raise UserError(
            f"cannot use {path} ({str(cause).splitlines()[0]}): restore it, free space, or choose another run_dir"
        ) from error


@contextmanager
def lock_study(path: Path) -> Iterator[None]:
    """Hold a study for this process, until it ends in whatever way."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is tuning in {path.parent}: wait for it, or choose another run_dir") from None
        yield


def trial_state() -> type["optuna.trial.TrialState"]:
    """Optuna's names for how a trial ended."""
    return load_optuna().trial.TrialState
