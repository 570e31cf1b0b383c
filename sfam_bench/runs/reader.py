"""Run folders, read: records, pairs, maps, curves and images, each proved before it is used."""

import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from sfam_bench.core.columns import POINT_TO_POINT
from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import check_regular, fit_name
from sfam_bench.runs.chunks import (
    CURVES,
    PLAIN,
    SCHEMA,
    chunk_path,
    chunk_paths,
    describe_passes,
    read_chunk,
    read_footer,
)
from sfam_bench.runs.continued import PLAN
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.matrix import PAIR, Matrix, build_matrix
from sfam_bench.runs.proof import (
    AGAIN,
    DIGESTS,
    cached_digest,
    cast_columns,
    check_digest,
    read_pairs,
    stream_table,
)

log = logging.getLogger(__name__)
KINDS = {"records": SCHEMA, "curves": CURVES}


@dataclass(frozen=True)
class Run:
    """A run; `unfinished` describes the present part of an incomplete one."""

    root: Path
    manifest: dict[str, Any]
    pairs: pd.DataFrame
    matrix: Matrix
    unfinished: str = ""

    @property
    def blind(self) -> tuple[str, ...]:
        """The explainers that are blind to the reference."""
        return tuple(self.manifest.get("blind") or ())


def read_run(root: Path, allow_unfinished: bool = False) -> Run:
    """Read a run folder.

    Args:
        root: the folder.
        allow_unfinished: whether to read a run that is not complete.

    Raises:
        UserError: if the folder is no run, unfinished, or a file is missing or damaged.
    """
    root, manifest, unfinished = Path(root), *_open(Path(root), allow_unfinished)
    pairs = read_pairs(root, manifest)
    matrix = build_matrix(partial(stream_tables, root, manifest, "records"), pairs, root)
    return Run(root, manifest, pairs, matrix, unfinished)


def read_records(root: Path, allow_unfinished: bool = False) -> pd.DataFrame:
    """Read the records of a run as a long frame, one value per row; UserError in one line if they are not valid."""
    manifest, _ = _open(Path(root), allow_unfinished)
    return read_tables(Path(root), manifest, "records").cast(PLAIN).to_pandas()


def _open(root: Path, allow_unfinished: bool) -> tuple[dict[str, Any], str]:
    """The manifest of a run, with the codes of its batches, and how much of it is present if it is unfinished."""
    manifest = read_manifest(root)
    there = count_batches(root, manifest)
    planned = manifest.get("shards", there)
    unfinished = ""
    if not manifest.get("done") or there < planned:
        unfinished = f"{there} of {planned}" if "shards" in manifest else f"{there}"
    if unfinished and not allow_unfinished:
        how = "sfam-bench submit run and merge" if (root / PLAN).is_file() else "resume=true"
        raise UserError(
            f"run folder {root} is unfinished: it has {unfinished} chunks; continue it with {how}; sfam-bench report "
            "reads the available part with allow_unfinished=true"
        )
    if unfinished and not there:
        raise UserError(f"run folder {root} has no finished chunk yet: wait for the first, or continue it")
    if not manifest.get("merged"):
        codes = list_codes(_check_agreement(root, manifest))
        manifest = {**manifest, **({"codes": codes} if len(codes) > 1 else {})}
    return manifest, unfinished


def read_tables(root: Path, manifest: Mapping[str, Any], kind: str) -> pa.Table:
    """The records or curves of all batches."""
    tables = [*stream_tables(root, manifest, kind)] or [KINDS[kind].empty_table()]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def stream_tables(root: Path, manifest: Mapping[str, Any], kind: str) -> Iterator[pa.Table]:
    """The records or curves of all batches in parts, each verified."""
    schema, path = KINDS[kind], root / f"{kind}.parquet"
    if manifest.get("merged"):
        if kind == "curves" and not path.exists() and DIGESTS not in manifest:
            return
        check_digest(root, manifest, path)
        for table in stream_table(path):
            yield cast_columns(table, schema, path)
        return
    for number, facts in _batches(root):
        path = chunk_path(root, kind, number)
        if kind == "curves" and not (facts.get("curves") or (DIGESTS not in manifest and path.exists())):
            continue
        try:
            table, _ = read_chunk(path, schema, facts.get("key"), number, sealed=DIGESTS in manifest)
        except ValueError as error:
            raise UserError(f"{error}: {_advise(root, number)}") from error
        yield cast_columns(table, schema, path)


def count_batches(root: Path, manifest: Mapping[str, Any]) -> int:
    """The number of batches of a run."""
    merged = manifest.get("merged")
    return merged["batches"] if merged else len(chunk_paths(root))


def list_codes(facts: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """The batches by code hash: {"0f3a": "0-4, 7"}; `facts` has the facts of each batch."""
    found: dict[str, str] = {}
    numbers = sorted(facts)
    for code in dict.fromkeys(str(facts[number].get("code", "unknown")) for number in numbers):
        own = [number for number in numbers if str(facts[number].get("code", "unknown")) == code]
        runs = [[n for _, n in run] for _, run in groupby(enumerate(own), lambda at: at[1] - at[0])]
        found[code] = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return found


def read_maps(
    root: Path, wanted: Container[tuple[str, str]] | None = None, points: bool = False
) -> dict[str, np.ndarray]:
    """Read the raw maps of a run.

    Args:
        root: the folder.
        wanted: pairs (query_id, reference_id); None for all.
        points: whether to include the large point-to-point maps.

    Returns:
        Arrays of equal length: `query_id`, `reference_id`, `METHOD/query` and `METHOD/reference` (pairs, grid rows,
        grid cols), signed, not scaled.

    Raises:
        UserError: if maps differ in size or a file is damaged.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for path in _maps(Path(root)):
        for name, array in _read_npz(path, wanted, () if points else (POINT_TO_POINT,)).items():
            parts.setdefault(name, []).append(array)
    shapes = {name: {array.shape[1:] for array in arrays} for name, arrays in parts.items()}
    if uneven := [name for name, found in shapes.items() if len(found) > 1]:
        raise UserError(f"the maps {uneven[0]} in {root} have several sizes: {AGAIN}")
    maps = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len({len(array) for array in maps.values()}) > 1:
        raise UserError(f"the maps in {root} are of different explainers: {AGAIN}")
    return maps


def read_curves(root: Path) -> pd.DataFrame:
    """Read the raw curves of a run: explainer, curve, query_id, reference_id, and arrays of fraction and score."""
    root = Path(root)
    return read_tables(root, _manifest(root), "curves").to_pandas()


def read_image(root: Path, manifest: Mapping[str, Any], image_id: str) -> Image.Image:
    """A stored image of a run."""
    path = image_path(root, image_id)
    check_digest(root, manifest, path)
    try:
        return Image.open(path).convert("RGB")
    except Exception as error:  # a broken picture raises half a dozen kinds
        raise UserError(f"cannot read {path} ({first_line(error)}): {AGAIN}") from error


def image_path(root: Path, image_id: str) -> Path:
    """The path of the stored image `image_id`, whose id may contain slashes."""
    return Path(root) / "images" / fit_name(quote(image_id, safe=""), ".png")


def pairs_with_images(run: Run) -> pd.DataFrame:
    """The pairs of a run whose two images are stored."""
    stored = {path.name for path in (run.root / "images").glob("*.png")}
    names = run.pairs[[*PAIR]].map(lambda image_id: image_path(run.root, image_id).name)
    return run.pairs[names.isin(stored).all(axis=1)]


def _manifest(root: Path) -> dict[str, Any]:
    return read_manifest(root) if (root / "manifest.json").is_file() else {}


def _batches(root: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each batch, with the facts in the footer of its records."""
    for path in chunk_paths(root):
        if not path.stem.isdigit():
            raise UserError(f"{path} is not a batch of records: remove it")
        yield int(path.stem), read_footer(path)


def _check_agreement(root: Path, manifest: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The facts of each batch; UserError if they come from several plans or modes of passes."""
    facts = {number: one for number, one in _batches(root) if one}  # very old ones have no facts
    expected = manifest.get("passes") or {}
    for number, one in facts.items():
        first = next(iter(facts.values()))
        if one.get("key") != first.get("key"):
            raise UserError(f"{chunk_path(root, 'records', number)} is of another run than those before it: {AGAIN}")
        passes = one.get("passes") or {}
        if passes != (first.get("passes") or {}) or any(expected.get(k, value) != value for k, value in passes.items()):
            known = {name: expected.get(name) for name in passes} if expected else first.get("passes")
            raise UserError(
                f"{chunk_path(root, 'records', number)} was computed with passes {describe_passes(passes)}, "
                f"and the run with {describe_passes(known)}: {_advise(root, number)}"
            )
    return facts


def _maps(root: Path) -> Iterator[Path]:
    """The files of maps, each checked by the records of its batch, or by the manifest of a light copy."""
    manifest = _manifest(root)
    facts = dict(_batches(root))
    if not any((root / "maps").glob("*.npz")) and any(one.get("maps") for one in facts.values()):
        log.warning("%s: its maps were removed, and are not shown", root)
        return
    for number, one in facts.items():
        path = chunk_path(root, "maps", number)
        if not (kept := one.get("maps")):
            continue
        if isinstance(kept, Mapping) and cached_digest(path) != kept["sha256"]:
            raise UserError(f"{path} is damaged or was edited (its digest differs): {_advise(root, number)}")
        if not isinstance(kept, Mapping) and DIGESTS in manifest:
            raise UserError(
                f"{chunk_path(root, 'records', number)} is of an older version than its run: {_advise(root, number)}"
            )
    for path in chunk_paths(root, "maps"):
        if not path.stem.isdigit() or int(path.stem) not in facts:
            if DIGESTS in manifest and not manifest.get("done"):
                continue  # of a batch that is not finished
            check_digest(root, manifest, path)
        elif not facts[int(path.stem)].get("maps") and DIGESTS in manifest:
            raise UserError(f"{path} does not belong to the run: remove it")
        yield path


def _advise(root: Path, number: int) -> str:
    return f"delete {chunk_path(root, 'records', number)} and evaluate with resume=true"


def _read_npz(path: Path, wanted: Container[tuple[str, str]] | None, without: Container[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(check_regular(path), allow_pickle=False) as arrays:
            pairs = zip(arrays["query_id"].tolist(), arrays["reference_id"].tolist(), strict=True)
            chosen = np.array([wanted is None or pair in wanted for pair in pairs], dtype=bool)
            names = [name for name in arrays.files if name not in without]
            found = {name: arrays[name] for name in names} if chosen.any() else {}
            if uneven := [name for name, array in found.items() if array.shape[:1] != chosen.shape]:
                raise ValueError(f"{uneven[0]} is not of {len(chosen)} pairs")
            return {name: array[chosen] for name, array in found.items()}
    except Exception as error:  # a broken zip raises half a dozen kinds
        raise UserError(
            f"cannot read {path} ({first_line(error)}): {_advise(path.parents[1], _number(path))}"
        ) from error


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0
