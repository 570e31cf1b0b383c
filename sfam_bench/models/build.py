"""Put a trunk, a pooling, a head and a similarity together; save and load what was trained."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfam_bench.errors import UserError
from sfam_bench.models.backbones import Cut, trunk_and_tail
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.models.tokens import Token
from sfam_bench.similarity import SimilarityFunction


def build(
    name: str,
    trunk: nn.Module | Cut,
    pooling: nn.Module,
    similarity: SimilarityFunction,
    head: nn.Module | None = None,
    normalise: bool = True,
    checkpoint: str | None = None,
    image_size: int = 224,
) -> SimilarityModel:
    """Assemble a model; `normalise` is L2 on the embeddings, `checkpoint` a file of `save`, `image_size` in px."""
    body, tail = trunk if isinstance(trunk, tuple) else (trunk, None)
    model = SimilarityModel(body, Embedder(pooling, head, tail, normalise), similarity, name, image_size).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size))
    if checkpoint is not None:
        load(model, Path(checkpoint))
    return model


def backbone(
    name: str,
    source: str = "timm",
    layer: str | None = None,
    features: str | None = None,
    weights: str | None = None,
    token: Token = "patch",
) -> Cut:
    """A backbone by name with weights from a file (.safetensors, or .pth read with weights_only)."""
    state = read_state(Path(weights)) if weights else None
    return trunk_and_tail(source, name, layer, features, state, token=token)


def save(model: SimilarityModel, path: Path, facts: dict[str, Any]) -> None:
    """Write weights as safetensors and, beside them, what they are as JSON."""
    temporary = path.with_suffix(".tmp")
    save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, temporary)
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2))
    temporary.replace(path)


def weights_hash(model: nn.Module) -> str:
    """Digest of all weights, so that results of two checkpoints under one path never mix."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load(model: nn.Module, path: Path) -> None:
    """Load weights that fit exactly; otherwise UserError says what is missing, left over or of another shape."""
    state, own = read_state(path), model.state_dict()
    missing, left_over = own.keys() - state.keys(), state.keys() - own.keys()
    differing = {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    if missing or left_over or differing:
        example = sorted(missing | left_over | differing)[0]
        raise UserError(
            f"checkpoint {path} does not fit the model: {len(missing)} entries missing, {len(left_over)} left over, "
            f"{len(differing)} of another shape (first: {example}); give the head and pooling of its training"
        )
    broken = next(
        (key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()), None
    )
    if broken is not None:
        raise UserError(f"checkpoint {path} holds NaN or infinity in '{broken}'; train again or take an earlier one")
    model.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file without ever running a pickle."""
    if not path.is_file():
        raise UserError(f"no weights at {path}: give the path of a .safetensors or .pth file")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read weights from {path}: {_first_line(error)}; the file is damaged or of another kind"
        ) from error
    except Exception as error:  # pickle.UnpicklingError: torch's refusal of code in the file
        raise UserError(
            f"refused to read {path}: it holds more than tensors, which may be code; only plain tensors are loaded"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no plain state dict; save model.state_dict() or a .safetensors file")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
