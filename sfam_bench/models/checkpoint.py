"""Weights from files, without executing code from them."""

import argparse
import hashlib
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import SEAL, SEALED, atomic

log = logging.getLogger(__name__)


# Networks that are evaluated, and those that are trained beside them
EVALUATED = {"encoder_q": "encoder_k", "base_encoder": "momentum_encoder", "teacher": "student"}
SHOWN = 6  # modules in a line
HALVES = (torch.float16, torch.bfloat16)
# Where code bases keep the model's state dict in what they save
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")


class Inert:
    """Replaces an object that is not a tensor; accepts any arguments and does nothing."""

    def __new__(cls, *_: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Settings are read; training histories in the same files are replaced by Inert
NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
ALLOWED: list[Any] = [argparse.Namespace, *((Inert, name) for name in ("utilities.logger.Progress_Saver", *NUMPY))]


def read(path: Path) -> Any:
    """The content of a .safetensors file, or of a torch.save file of tensors, plain values and settings alone."""
    if not path.is_file():
        raise UserError(f"there are no weights at {path}: give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return _load_verified(path)
        _check_archive(path)
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"refused to read {path}: TorchScript holds code; save the state dict of the loaded model instead"
            ) from error
        raise UserError(
            f"cannot read weights from {path}: {first_line(error, 120)}; the file is damaged or of another kind"
        ) from error
    except Exception as error:  # pickle.UnpicklingError: torch's refusal of code in the file
        found = re.search(r"(?:GLOBAL|class|function) '?([\w.]+)", str(error))
        raise UserError(
            f"refused to read {path}: it holds more than tensors, which may be code"
            f"{f' ({found[1]})' if found else ''}; save only model.state_dict() instead"
        ) from error


def _check_archive(path: Path) -> None:
    """Raise BadZipFile where a member of a torch.save file differs from its checksum, which torch.load ignores."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise zipfile.BadZipFile(f"it holds {twice[0]} twice")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} differs")


def check_kinds(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError where entries for floating-point weights are integers or complex; any precision is accepted."""
    own = model.state_dict()
    for key, value in state.items():
        if key in own and own[key].is_floating_point() and not value.is_floating_point():
            raise UserError(
                f"{where}: '{key}' is {value.dtype} instead of {own[key].dtype} (a quantised or damaged file?): save "
                f"the weights in floating point"
            )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict for safetensors: on the CPU, contiguous, without shared memory."""
    state = model.state_dict()
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(
            f"{type(model).__name__} cannot be saved: its entry '{odd[0]}' is no tensor; remove it from state_dict()"
        )
    taken: set[int] = set()
    found = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() > tensor.nbytes:  # tied weights, or a part of a larger tensor
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        found[key] = tensor
    return found


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict of `weights` as safetensors with the digest of its content, atomically."""
    try:
        with atomic(path) as temporary:
            save_file(dict(state), temporary, {SEAL: content_digest(state), SEALED: "true"})
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{path} cannot be written as safetensors ({first_line(error, 120)}): change the layer with these weights"
        ) from error


def content_digest(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and bytes of tensors, in hexadecimal, whatever their order."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(f"{key}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def written_digest(path: Path) -> str | None:
    """The digest in a .safetensors file; None where it has none, as files of other projects."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path} ({error}): restore them, or train again") from error
    if SEAL not in metadata and SEALED not in metadata:
        return None
    return metadata.get(SEAL, "lost")


def _load_verified(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; raises ValueError where they do not match its digest."""
    state, written = load_file(path), written_digest(path)
    if written is not None and content_digest(state) != written:
        raise ValueError("its digest differs")
    return state


def read_ours(path: Path) -> dict[str, Tensor]:
    """Read weights of this project, with a warning for files without a digest (of an older version)."""
    state = read_state(path)
    if path.suffix == ".safetensors" and written_digest(path) is None:
        log.warning("%s has no digest (written by an older version): its content is not verified", path)
    return state


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file; raises UserError where it holds several."""
    found = states_in(read(path), path)
    if len(found) > 1:
        raise UserError(
            f"{path} holds several state dicts ({', '.join(sorted(found))}): save one of them separately, or load "
            "the file with model=checkpoint and model.prefix"
        )
    return next(iter(found.values()))


def states_in(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts in the content of a file, by name; "" is the whole file."""
    found = _states(content)
    if not found:
        raise UserError(f"{path} holds no plain state dict; save model.state_dict() or a .safetensors file")
    return found


def _states(content: Any) -> dict[str, dict[str, Tensor]]:
    if not isinstance(content, Mapping) or not content:
        return {}
    if all(isinstance(value, Tensor) for value in content.values()):
        return {"": {str(key): value for key, value in content.items()}}
    found = {}
    for name, value in content.items():
        for inner, state in _states(value).items():
            if name in WRAPPERS or not inner:  # deeper ones belong to an optimiser
                found[f"{name}.{inner}" if inner else str(name)] = state
    return found


def strip_prefix(model: nn.Module, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The entries of a network in a state dict with prefixes such as `module.` or `backbone.`, without the prefix.

    Logs the prefix, the modules that are left out and a half precision. Returns `state` where nothing fits, and raises
    UserError where several networks do.
    """
    own = {key: value.shape for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    if not own:
        return state
    anchor = next(iter(own))
    prefixes = {key.removesuffix(anchor) for key in state if key == anchor or key.endswith(f".{anchor}")}
    fitting = [
        prefix
        for prefix in sorted(prefixes)
        if sum((value := state.get(prefix + key)) is not None and value.shape == own[key] for key in own) > len(own) / 2
    ]
    prefix = choose_evaluated(fitting)
    if prefix is None and len(fitting) > 1:
        raise UserError(
            f"the weights of {name} hold several networks ({', '.join(fitting)}): save one of them separately, or load "
            "the file with model=checkpoint and model.prefix"
        )
    prefix = prefix or ""
    kept = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if prefix:
        others = sorted({".".join(key.split(".")[:2]) for key in state if not key.startswith(prefix)})
        log.warning("%s: read under '%s'%s", name, prefix, f"; ignored: {', '.join(others[:SHOWN])}" if others else "")
    if halves := describe_halves(kept):
        log.warning("%s: %s", name, halves)
    return kept


def choose_evaluated(prefixes: Sequence[str]) -> str | None:
    """The only prefix, or of two networks of one training the one that its authors evaluate; None for all others.

    These are MoCo's query encoder (base encoder of v3) and DINO's teacher.
    """
    if len(prefixes) == 1:
        return prefixes[0]
    for kept, trained_beside in EVALUATED.items():
        chosen = [prefix for prefix in prefixes if kept in prefix.split(".")]
        others = [prefix for prefix in prefixes if trained_beside in prefix.split(".")]
        if len(chosen) == 1 and len(chosen) + len(others) == len(prefixes):
            return chosen[0]
    return None


def describe_halves(state: Mapping[str, Tensor]) -> str:
    """How weights of a half precision are read; empty without any."""
    halves = {str(value.dtype).removeprefix("torch.") for value in state.values() if value.dtype in HALVES}
    return f"weights in {' and '.join(sorted(halves))} are read as float32" if halves else ""


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError where a weight is NaN or infinite."""
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"checkpoint {path} holds NaN or infinity in '{key}'; train again or use an earlier one")
