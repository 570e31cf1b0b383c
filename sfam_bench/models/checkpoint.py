"""Weights out of files, without ever running what is in them."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sfam_bench.errors import UserError

# Where code bases keep the state dict in what they save; averaged weights first, as timm takes them
WRAPPERS = ("state_dict_ema", "model_ema", "model_state_dict", "state_dict", "model", "teacher")


class Inert:
    """What stands for an object that is no tensor: it takes anything and does nothing."""

    def __new__(cls, *_: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Settings are read; histories of a training are in the same files, but nothing of them is made
NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
ALLOWED: list[Any] = [argparse.Namespace, *((Inert, name) for name in ("utilities.logger.Progress_Saver", *NUMPY))]


def read(path: Path) -> Any:
    """What a .safetensors file holds, or one of torch.save with nothing but tensors, plain values and settings."""
    if not path.is_file():
        raise UserError(f"no weights at {path}: give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"refused to read {path}: TorchScript holds code; save the state dict of the loaded model alone"
            ) from error
        raise UserError(
            f"cannot read weights from {path}: {_first_line(error)}; the file is damaged or of another kind"
        ) from error
    except Exception as error:  # pickle.UnpicklingError: torch's refusal of code in the file
        found = re.search(r"(?:GLOBAL|class|function) '?([\w.]+)", str(error))
        raise UserError(
            f"refused to read {path}: it holds more than tensors, which may be code"
            f"{f' ({found[1]})' if found else ''}; save model.state_dict() alone where the file comes from"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file."""
    return state_in(read(path), path)


def state_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds."""
    if isinstance(content, Mapping):
        for name in WRAPPERS:
            if isinstance(content.get(name), Mapping) and content[name]:
                return state_in(content[name], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    raise UserError(f"{path} holds no plain state dict; save model.state_dict() or a .safetensors file")


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError where a weight is NaN or infinite."""
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"checkpoint {path} holds NaN or infinity in '{key}'; train again or take an earlier one")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
