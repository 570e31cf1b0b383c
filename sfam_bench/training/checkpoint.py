"""Where a training stands, on disk: a folder a checkpoint, which is there whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfam_bench.errors import UserError
from sfam_bench.provenance import Config, config_hash

FOLDER, BEST = "checkpoints", "best.safetensors"  # in the folder of a run
MODEL, LEARNING, FACTS = "model.safetensors", "learning.pt", "state.json"


@runtime_checkable
class Stateful(Protocol):
    """Something whose state is a dict of tensors and plain values: an optimiser, a schedule, a loss."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state on."""
        ...


class Checkpoints:
    """The newest state of one training, in `folder`; `identity` is what a training must share to be continued."""

    def __init__(self, folder: Path, identity: Config) -> None:
        self.folder, self.identity = folder, config_hash(identity)

    def newest(self) -> Path | None:
        """The last whole checkpoint."""
        return max(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]), default=None)

    def write(self, step: int, model: nn.Module, learning: Mapping[str, Stateful], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint beside the last one, give it its name, and only then remove the last one."""
        path = self.folder / f"step-{step:08d}"
        if path.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep("*.tmp")
        temporary = self.folder / f"{os.getpid()}.tmp"
        try:
            temporary.mkdir()
            save_file(tensors(model), temporary / MODEL)
            torch.save({name: part.state_dict() for name, part in learning.items()}, temporary / LEARNING)
            (temporary / FACTS).write_text(json.dumps({"step": step, "identity": self.identity, **facts}, indent=2))
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._sweep("step-*", but=path)

    def read(self, path: Path, model: nn.Module, learning: Mapping[str, Stateful]) -> dict[str, Any]:
        """Put a checkpoint back into the model and what learns; returns its facts."""
        try:
            facts: dict[str, Any] = json.loads((path / FACTS).read_text())
            if facts["identity"] != self.identity:
                raise UserError(
                    f"the training at {path.parent.parent} was begun with other settings or images: give the same, or "
                    "another run_dir"
                )
            model.load_state_dict(load_file(path / MODEL))
            states = torch.load(path / LEARNING, map_location="cpu", weights_only=True)
            for name, part in learning.items():
                part.load_state_dict(states[name])
        except UserError:
            raise
        except Exception as error:  # safetensors, pickle and torch each have their own
            why = " ".join(f"{type(error).__name__}: {error}".split())[:150]
            raise UserError(f"cannot continue from {path} ({why}): delete this folder to begin anew") from error
        return facts

    def _sweep(self, pattern: str, but: Path | None = None) -> None:
        for path in self.folder.glob(pattern):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights, ready for safetensors."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def tidy(run: Path) -> None:
    """Remove what was only there to continue a training."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    (run / BEST).unlink(missing_ok=True)
