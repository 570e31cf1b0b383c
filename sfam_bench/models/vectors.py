"""Vectors out of files: stored embeddings, and the class proxies of trained losses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import read_json
from sfam_bench.core.references import NamedVectors
from sfam_bench.models.checkpoint import read_state, write_weights

PROXY_FILE = "proxies.safetensors"  # in the folder of a training

# How losses name their proxies, and whether a row or a column is a proxy
PROXIES = {
    "W": "columns",  # pytorch-metric-learning: ArcFace, CosFace, sub-centre ArcFace, normalised softmax
    "fc": "columns",  # SoftTriple, there and in its authors' code
    "proxies": "rows",  # Proxy-Anchor, ProxyNCA, in both code bases
    "weight": "rows",  # a linear or margin layer, as of InsightFace
}


def read_vectors(path: str | Path, name: str | None = None) -> NamedVectors:
    """Read vectors of a gallery: an .npy matrix, a .parquet table, or a matrix in a .safetensors file.

    .npy: (items, dims); names are the numbers of the rows.
    .parquet: numeric columns, or one column of lists, are the dimensions; the column `image_id` or `name` the names.
    .safetensors: the only matrix, or the one called `name`.

    Raises:
        UserError: if the file is absent, of another kind or damaged, or its vectors differ in length.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there are no vectors at {path}: give an .npy, .parquet or .safetensors file")
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
            names = None
        elif path.suffix == ".parquet":
            found, names = _read_table(path)
        elif path.suffix == ".safetensors":
            found, names = _only_matrix(read_state(path), path, name).float().numpy(), None
        else:
            raise UserError(f"{path} is no file of vectors: give .npy, .parquet or .safetensors")
    except (OSError, ValueError, EOFError) as error:
        why = first_line(error, 120)
        raise UserError(f"cannot read vectors from {path} ({why}): write the file again") from None
    if found.ndim != 2 or not found.size or found.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {found.dtype} {found.shape}: expected numbers, (items, dims)")
    rows = tuple(map(str, range(len(found)))) if names is None else names
    return NamedVectors(rows, torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)))


def read_proxies(path: str | Path, classes: Sequence[str] | None = None, name: str | None = None) -> NamedVectors:
    """Read the class proxies of a trained loss: `proxies.safetensors` of a run here, or a loss's state dict.

    Args:
        path: of the file; it is never executed.
        classes: the class of each proxy in the order of the loss, each repeated where it has several centres one after
            another (SoftTriple, sub-centre ArcFace); None for their numbers.
        name: of the entry, where the file has several that could be proxies.

    Raises:
        UserError: if the file has no proxies, or their number is no multiple of the number of classes.
    """
    path = Path(path).expanduser()
    state = {key: value for key, value in read_state(path).items() if value.ndim == 2}
    known = {key: value for key, value in state.items() if key.rpartition(".")[2] in PROXIES}
    if name is not None:
        known = {key: value for key, value in state.items() if key == name}
    if classes is None and path.name == PROXY_FILE and (facts := path.with_name("model.json")).is_file():
        classes = read_json(facts, "give the classes").get("proxy_classes")
    if len(known) != 1:
        there = ", ".join(known or state) or "no matrix"
        raise UserError(f"{path} does not show which entry holds the proxies ({there}): give its name")
    ((key, value),) = known.items()
    rows = value.T if PROXIES.get(key.rpartition(".")[2]) == "columns" else value
    rows = rows.float().contiguous()
    given = tuple(map(str, range(len(rows)))) if classes is None else tuple(classes)
    if not given or len(rows) % len(given):
        raise UserError(f"{path} has {len(rows)} proxies for {len(given)} classes: give the class of each")
    each = len(rows) // len(given)
    return NamedVectors(tuple(name for name in given for _ in range(each)), rows)


def write_proxies(criterion: nn.Module, classes: Sequence[object], folder: Path) -> bool:
    """Write the proxies of a loss as PROXY_FILE, a row each, in the order of its classes; False if it has none."""
    state = {key: value for key, value in criterion.state_dict().items() if value.ndim == 2 and key in PROXIES}
    if len(state) != 1:
        return False
    ((key, value),) = state.items()
    rows = value.T if PROXIES[key] == "columns" else value
    if len(rows) % len(classes):
        return False
    write_weights({"proxies": rows.detach().cpu().contiguous()}, folder / PROXY_FILE)
    return True


def _read_table(path: Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    table = pd.read_parquet(path)
    named = next((column for column in ("image_id", "name") if column in table), None)
    names = None if named is None else tuple(table[named].astype(str))
    rest = table.drop(columns=[named] if named else [])
    lists = [column for column in rest if rest[column].map(lambda cell: isinstance(cell, list | np.ndarray)).all()]
    if len(lists) == 1 and len(rest):
        return np.stack([np.asarray(cell, dtype=float) for cell in rest[lists[0]]]), names
    return rest.select_dtypes("number").to_numpy(dtype=float), names


def _only_matrix(state: dict[str, Tensor], path: Path, name: str | None) -> Tensor:
    matrices = {key: value for key, value in state.items() if value.ndim == 2 and name in (None, key)}
    if len(matrices) != 1:
        there = ", ".join(state) or "nothing"
        raise UserError(f"{path} has {len(matrices)} matrices that could be the vectors ({there}): give its name")
    return next(iter(matrices.values()))
