"""Where a training stands, on disk: a folder a checkpoint, which is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import acquire_lock, atomic, digest, explain_full_disk, read_json, write_json
from sfam_bench.core.provenance import Config, config_hash, differences, running_code, to_plain
from sfam_bench.models.checkpoint import read_ours, weights, write_weights

FOLDER, BEST = "checkpoints", "best.safetensors"  # in the folder of a run
MODEL, LEARNING, FACTS, LOCK = "model.safetensors", "learning.pt", "state.json", ".lock"

_held: set[Path] = set()  # folders that this process trains in


@runtime_checkable
class Stateful(Protocol):
    """Something whose state is a dict of tensors and plain values: an optimiser, a schedule, a loss."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state on."""
        ...


@dataclass
class Progress:
    """What else than tensors changes while training."""

    step: int = 0
    total: float = 0.0  # loss of the epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None


class Checkpoints:
    """The newest state of one training, in `folder`; `identity` is what a training must share to be continued.

    `code` lists which code computed the steps from which one on; other code than the last continues only if
    `any_code` is set.
    """

    def __init__(self, folder: Path, identity: Config, any_code: bool = False) -> None:
        self.folder, self.identity, self.any_code = folder, to_plain(identity), any_code
        self.code: list[dict[str, Any]] = [{"code": running_code(), "from_step": 0}]

    def newest(self) -> Path | None:
        """The last whole checkpoint."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]), default=None)

    def write(self, step: int, model: nn.Module, learning: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint beside the last one, give it its name, and only then remove the last one."""
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
                # an open file, since torch hides the system's error where it opens one itself
                with atomic(temporary / LEARNING) as whole, whole.open("wb") as file:
                    torch.save({name: part.state_dict() for name, part in learning.items()}, file)
                proofs = {name: digest(temporary / name) for name in (MODEL, LEARNING)}
                known = {"step": step, "identity": self.identity, "code": self.code, "digests": proofs}
                write_json(temporary / FACTS, {**known, **facts})
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._remove_older("step-*", but=path)

    def read(self, path: Path, model: nn.Module, learning: Mapping[str, Stateful]) -> dict[str, Any]:
        """Put a checkpoint back into the model and what learns; returns its facts."""
        run, anew = path.parent.parent, "delete this folder to begin anew"
        facts = read_json(path / FACTS, f"cannot continue from {path}: {anew}")
        if self._differs(was := facts.get("identity")):
            named = f" ({differences(was, self.identity, 8)})" if isinstance(was, Mapping) else ""
            raise UserError(
                f"the training at {run} was begun with other settings or images{named}: "
                "give the same, or another run_dir"
            )
        self._admit_code(facts, run)
        try:
            for name, written in facts.get("digests", {}).items():  # an older version wrote none
                if digest(path / name) != written:
                    raise ValueError(f"{name} is damaged: its digest differs")
            model.load_state_dict(read_ours(path / MODEL))
            states = torch.load(path / LEARNING, map_location="cpu", weights_only=True)
            for name, part in learning.items():
                part.load_state_dict(states[name])
        except UserError:
            raise
        except Exception as error:  # pickle and torch each have their own
            why = " ".join(f"{type(error).__name__}: {error}".split())[:150]
            raise UserError(f"cannot continue from {path} ({why}): {anew}") from error
        return facts

    def _differs(self, identity: Any) -> bool:
        if isinstance(identity, str):  # of an older version: a hash
            return identity != config_hash(self.identity)
        return bool(identity != self.identity)

    def _admit_code(self, facts: Mapping[str, Any], run: Path) -> None:
        now = self.code[-1]["code"]
        before: list[dict[str, Any]] = facts.get("code", [{"code": "unknown", "from_step": 0}])
        if before[-1]["code"] == now:
            self.code = before
        elif not self.any_code:
            raise UserError(
                f"the training at {run} was begun with other code of sfam_bench ({before[-1]['code']}, now {now}): "
                "take that code, give another run_dir, or pass resume=anyway, which model.json then says"
            )
        else:
            self.code = [*before, {"code": now, "from_step": facts["step"]}]

    def _remove_older(self, pattern: str, but: Path | None = None) -> None:
        for path in self.folder.glob(pattern):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def lock_folder(run: Path) -> Iterator[None]:
    """Hold the folder of a run, so that no other process trains there; the system lets go of it when this one ends."""
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
            if [path.name for path in folder.glob("*")] == [LOCK]:  # nothing was begun, so that nothing is to resume
                shutil.rmtree(folder, ignore_errors=True)


def check_can_save(model: nn.Module, run: Path) -> None:
    """Write the weights into the folder of a run and remove them again: what cannot be saved is not trained first."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / ".rehearsal.safetensors"
    try:
        write_weights(weights(model), path)
    finally:
        path.unlink(missing_ok=True)


def remove_checkpoints(run: Path) -> None:
    """Remove what was only there to continue a training."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    (run / BEST).unlink(missing_ok=True)
