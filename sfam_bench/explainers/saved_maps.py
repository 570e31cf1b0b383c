"""Maps from other software: a folder of .npy files, evaluated like any method."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

import numpy as np
import torch

from sfam_bench.core.errors import Checked, UserError, one_line
from sfam_bench.core.files import check_regular, fit_name, temporary_folder
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.datasets.folder import resolve_inside
from sfam_bench.models.similarity_model import SimilarityModel

NPY = b"\x93NUMPY"


def pair_file(query_id: str, reference_id: str) -> str:
    """The file of a pair's map: "query@reference.npy", each id percent-encoded (`fit_name` shortens very long ones)."""
    return fit_name(f"{quote(query_id, safe='')}@{quote(reference_id, safe='')}", ".npy")


@dataclass(frozen=True)
class SavedMaps(Checked):
    """map(query, reference), read from a file; your own.

    Each file holds one two-dimensional array of numbers, signed, on any scale and grid. It covers the model's input,
    after resize and crop, not the image file.

    folder: of the files.
    named_by: "pair", for "query@reference.npy" (ids percent-encoded), or "image", for "query.npy", where slashes in
        an id are folders, as in wsolevaluation.
    """

    folder: str
    named_by: Literal["pair", "image"] = "pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.folder).expanduser().is_dir():
            raise UserError(f"there is no folder of maps {self.folder}: check the path")

    @property
    def card(self) -> Card:
        """Maps named by image cannot change with the reference."""
        return Card(
            reads_reference=self.named_by == "pair",
            remakes=False,
            degenerate=("a map named by image is the same for every reference",),
        )

    @cached_property
    def root(self) -> Path:
        return Path(self.folder).expanduser()

    @cached_property
    def any_shape(self) -> tuple[int, ...]:
        """The shape of one map of the folder; all must have it."""
        if (first := next(self.root.rglob("*.npy"), None)) is None:
            raise UserError(f"{self.folder} holds no map: save each as .npy")
        return read_map(first).shape

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        shown = encoded.query.images
        if not torch.equal(shown, pairs.query.to(shown)):
            raise UserError(f"maps read from {self.folder} cannot be computed for changed images")
        maps = [self.one(*ids) for ids in zip(pairs.query_ids, pairs.reference_ids, strict=True)]
        return torch.from_numpy(np.stack(maps)).to(shown.device)

    def one(self, query_id: str, reference_id: str) -> np.ndarray:
        """The map of a pair, (rows, cols); raises UserError where it is absent, invalid or of another shape."""
        by_pair, by_image = pair_file(query_id, reference_id), f"{query_id}.npy"
        name, other = (by_pair, by_image) if self.named_by == "pair" else (by_image, by_pair)
        if not _is_file(path := resolve_inside(self.root, name)):
            if _is_file(resolve_inside(self.root, other)):
                hint = f"but {other} is there: set named_by={'image' if self.named_by == 'pair' else 'pair'}"
            else:
                hint = "save one for each pair of pairs.parquet (and for its reverse with maps.save=true)"
            raise UserError(f"no map of {query_id} explained by {reference_id}: looked for {path}; {hint}")
        if (found := read_map(path)).shape != self.any_shape:
            raise UserError(
                f"{path} is {found.shape} but others are {self.any_shape}: save all on one grid, over the model's "
                "input after resize and crop"
            )
        return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # an id that is too long for the name of a file
        return False


def read_map(path: Path) -> np.ndarray:
    """One saved map as float32; NaN is kept, since evaluate flags it."""
    try:
        with check_regular(path).open("rb") as file:  # before np.load allocates the size that the header claims
            if file.read(len(NPY)) == NPY:
                file.seek(0)
                _check_header(file, path.stat().st_size)
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}): save it again as one array with np.save") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not found.size or found.dtype.kind not in "fiub":
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise UserError(f"{path} is {what}: expected numbers, (rows, cols)")
    with np.errstate(over="ignore"):  # becomes infinite, and is flagged
        return found.astype(np.float32)


def _check_header(file: BinaryIO, size: int) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"its header claims {shape} of {dtype}, but the file has {size} bytes")


def write_maps(folder: Path, maps: Iterable[tuple[str, str, np.ndarray]], replace: bool = False) -> int:
    """Write maps of (query_id, reference_id) as a folder, whole or not at all; returns the number of files.

    Raises:
        UserError: if the folder exists and is not empty, unless `replace` is set.
    """
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as temporary:
        for query_id, reference_id, array in maps:
            np.save(temporary / pair_file(query_id, reference_id), array, allow_pickle=False)
        count = sum(1 for _ in temporary.iterdir())
        if replace and folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    return count
