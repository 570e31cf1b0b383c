"""Maps of a submission: computed by its code, or read from its folder."""

import hashlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.stream import progress
from sfam_bench.core.types import RawMaps
from sfam_bench.datasets.batches import load_batches
from sfam_bench.datasets.folder import ImageFolder
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.explainers.saved_maps import read_map
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.prepare import Bank, Preparable
from sfam_bench.models.similarity_model import encode_batch
from sfam_bench.tracks.track import Track, list_ids, name_files, without_answers

LARGEST = 512  # cells of a side
MOST_BYTES = 8 * LARGEST**2 + 4096  # of a file


@dataclass(frozen=True)
class Maps:
    """The raw maps of all pairs that a track explains, (pairs, rows, cols), in the order of `Track.explained`.

    seconds: for a map, without encoding its pair; None for maps from files.
    """

    raw: RawMaps
    seconds: float | None = None

    def named(self, track: Track) -> Iterator[tuple[str, str, np.ndarray]]:
        """query_id, reference_id and map of each pair."""
        for (query_id, reference_id), one in zip(list_ids(track.explained), self.raw.numpy(), strict=True):
            yield query_id, reference_id, one

    @property
    def facts(self) -> dict[str, Any]:
        """Count, shape and SHA-256 of the maps as float32."""
        values = np.ascontiguousarray(self.raw.numpy(), dtype="<f4")
        return {
            "count": len(values),
            "shape": list(values.shape[1:]),
            "sha256": hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest(),
        }


def prepare(track: Track, method: Explainer) -> Explainer:
    """The method, with what it computes from the training images of the track if it needs any.

    Raises:
        UserError: if it needs some and the track has none: of photos, the files at hand decide which are there.
    """
    if not isinstance(method, Preparable):
        return method
    if isinstance(track.dataset, ImageFolder):
        raise UserError(f"{type(method).__name__} needs training images, and {track.name} has none: use another track")
    index = track.dataset.index
    training = index.index[index["split"] == "train"]
    return method.prepare(track.model, Bank.of_dataset(track.model, track.dataset, [*training], track.batch))


def compute_maps(track: Track, method: Explainer) -> Maps:
    """The maps of a method, which sees ids and images of the pairs alone, and a copy of the model.

    Raises:
        UserError: if the method does not support the model, a map is not finite, or their shapes differ.
    """
    frames, made, seconds = track.batches(track.explained), list[RawMaps](), 0.0
    model = deepcopy(track.model)  # a method that changes weights or leaves hooks behind changes its own maps alone
    for pairs in progress(load_batches(track.dataset, frames), "maps", len(frames), "batch"):
        encoded = encode_batch(model, track.target, pairs)
        start = perf_counter()
        made.append(raw_maps(method, model, encoded, without_answers(pairs)).float().cpu())
        seconds += perf_counter() - start
    if len({one.shape[1:] for one in made}) > 1:
        raise UserError(f"{type(method).__name__} gives maps of several shapes: give all on one grid")
    return checked(track, Maps(torch.cat(made), seconds / len(track.explained)))


def read_maps(track: Track, folder: Path) -> Maps:
    """The maps in a folder of QUERY@REFERENCE.npy.

    Raises:
        UserError: if a pair has no map, a file belongs to no pair, a map is not finite, or shapes differ.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of maps {folder}: check the path")
    files = name_files(track.explained)
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if missing := [name for name in files if name not in there]:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(files)} maps that {track.name} needs, such as {missing[0]}: "
            f"sfam-bench track ls {track.name} lists them"
        )
    if strange := sorted(there - {*files}):
        raise UserError(
            f"{folder} holds {strange[0]}, which is no pair of {track.name}: remove it, or choose its track"
        )
    if large := [name for name in files if (folder / name).stat().st_size > MOST_BYTES]:
        raise UserError(f"{folder / large[0]} is too large: give at most {LARGEST} x {LARGEST} cells")
    arrays = [read_map(folder / name) for name in files]
    for name, array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise UserError(f"{folder / name} is {array.shape} and {files[0]} {arrays[0].shape}: save all on one grid")
    return checked(track, Maps(torch.from_numpy(np.stack(arrays))))


def checked(track: Track, maps: Maps) -> Maps:
    """The maps; UserError where one holds NaN or infinity, or is too large."""
    if max(maps.raw.shape[1:]) > LARGEST:
        raise UserError(f"the maps are {tuple(maps.raw.shape[1:])}: give at most {LARGEST} x {LARGEST} cells")
    wrong = (~maps.raw.flatten(1).isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if wrong:
        pair = track.explained.iloc[wrong[0]]
        raise UserError(
            f"{len(wrong)} maps hold NaN or infinity, the first of {pair.query_id} explained by {pair.reference_id}: "
            "a track accepts finite maps alone"
        )
    return maps
