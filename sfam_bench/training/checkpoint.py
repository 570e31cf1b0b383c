"""Checkpoints of a training run, each a folder that is written atomically."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.files import acquire_lock, atomic, digest, explain_full_disk, read_json, write_json
from sfam_bench.core.provenance import Config, config_hash, differences, running_code, to_plain
from sfam_bench.models.checkpoint import read_ours, weights, write_weights

FOLDER, BEST, BEST_LOSS = "checkpoints", "best-{}.safetensors", "best_loss-{}.safetensors"  # in the folder of a run
MODEL, LEARNING, FACTS, LOCK = "model.safetensors", "learning.pt", "state.json", ".lock"

_held: set[Path] = set()  # folders locked by this process


@runtime_checkable
class Stateful(Protocol):
    """An object whose state is a dict of tensors and plain values: an optimiser, a schedule, a loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""
        ...


@dataclass
class Progress:
    """The progress of a training, apart from tensors."""

    step: int = 0
    total: float = 0.0  # loss of the epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None


class Checkpoints:
    """The newest checkpoint of one training in `folder`; only a training with the same `identity` can continue it.

    `code` lists the hash of the code and the first step that it computed; other code than the last one may continue
    only if `any_code` is set.
    """

    def __init__(self, folder: Path, identity: Config, any_code: bool = False) -> None:
        self.folder, self.identity, self.any_code = folder, to_plain(identity), any_code
        self.code: list[dict[str, Any]] = [{"code": running_code(), "from_step": 0}]

    def newest(self) -> Path | None:
        """The last complete checkpoint; None if there is none."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]), default=None)

    def write(self, step: int, model: nn.Module, learning: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint under a temporary name, rename it, and then remove older ones."""
        path = self.folder / f"step-{step:08d}"
        if path.exists():
            return
        temporary = self.folder / f"{os.getpid()}.tmp"
        try:
            with explain_full_disk(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_older("*.tmp")
                temporary.mkdir()
                write_weights(weights(model), temporary / MODEL)
                # an open file, since torch hides the system's error if it opens the file itself
                with atomic(temporary / LEARNING) as whole, whole.open("wb") as file:
                    torch.save({name: part.state_dict() for name, part in learning.items()}, file)
                digests = {name: digest(temporary / name) for name in (MODEL, LEARNING)}
                known = {"step": step, "identity": self.identity, "code": self.code, "digests": digests}
                write_json(temporary / FACTS, {**known, **facts})
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._remove_older("step-*", but=path)

    def read(self, path: Path, model: nn.Module, learning: Mapping[str, Stateful]) -> dict[str, Any]:
        """Restore a checkpoint into `model` and `learning`; returns its facts."""
        run, remedy = path.parent.parent, "delete this folder to start again"
        facts = read_json(path / FACTS, f"cannot continue from {path}: {remedy}")
        was = facts.get("identity")
        if was != (
            config_hash(self.identity) if isinstance(was, str) else self.identity
        ):  # older versions wrote a hash
            changes = f" ({differences(was, self.identity, 8)})" if isinstance(was, Mapping) else ""
            raise UserError(
                f"the training at {run} was started with other settings or images{changes}: use the same, or another "
                "run_dir"
            )
        self._check_code(facts, run)
        try:
            for name, expected in facts.get("digests", {}).items():  # older versions wrote none
                if digest(path / name) != expected:
                    raise ValueError(f"{name} is damaged: its digest differs")
            model.load_state_dict(read_ours(path / MODEL))
            states = torch.load(path / LEARNING, map_location="cpu", weights_only=True)
            for name, part in learning.items():
                part.load_state_dict(states[name])
        except UserError:
            raise
        except Exception as error:  # pickle and torch raise many types
            why = f"{type(error).__name__}: {one_line(error)}"[:150]
            raise UserError(f"cannot continue from {path} ({why}): {remedy}") from error
        return facts

    def _check_code(self, facts: Mapping[str, Any], run: Path) -> None:
        now = self.code[-1]["code"]
        before: list[dict[str, Any]] = facts.get("code", [{"code": "unknown", "from_step": 0}])
        if before[-1]["code"] == now:
            self.code = before
        elif not self.any_code:
            raise UserError(
                f"the training at {run} was started with other code of sfam_bench ({before[-1]['code']}, now {now}): "
                "use that code, another run_dir, or resume=anyway, which is recorded in model.json"
            )
        else:
            self.code = [*before, {"code": now, "from_step": facts["step"]}]

    def _remove_older(self, pattern: str, but: Path | None = None) -> None:
        for path in self.folder.glob(pattern):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def lock_folder(run: Path) -> Iterator[None]:
    """Lock the folder of a run against other processes; the system releases the lock when this process ends."""
    folder = run.resolve() / FOLDER
    if folder in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with acquire_lock(folder / LOCK, f"{run} is being trained"):
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)
            if [path.name for path in folder.glob("*")] == [LOCK]:  # nothing was written, so there is nothing to resume
                shutil.rmtree(folder, ignore_errors=True)


def check_can_save(model: nn.Module, run: Path) -> None:
    """Write the weights into the folder of a run and remove them, so that a failure to save comes before training."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / ".rehearsal.safetensors"
    try:
        write_weights(weights(model), path)
    finally:
        path.unlink(missing_ok=True)


def remove_checkpoints(run: Path) -> None:
    """Remove the files that only serve to continue a training."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    remove_best(run)


def remove_best(run: Path, but: int | None = None) -> None:
    """Remove the weights of the best epochs, but those of one.

    Each has its own file, removed after the checkpoint that no longer needs it: a training killed before its checkpoint
    may go on to other weights.
    """
    for name in (BEST, BEST_LOSS):
        for path in run.glob(name.format("*")):
            if path.name != name.format(but):
                path.unlink(missing_ok=True)
