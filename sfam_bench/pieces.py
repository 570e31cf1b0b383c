"""Pieces: what one batch leaves on disk, each file with word of what it holds, so that no damage passes for a value."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sfam_bench.errors import UserError
from sfam_bench.files import atomic

KEYS = ("dataset", "model", "target", "explainer", "metric", "query_id", "reference_id")
TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([*((key, TEXT) for key in KEYS), ("value", pa.float64()), ("flag", TEXT)])
PLAIN = pa.schema([(field.name, pa.string() if field.type == TEXT else field.type) for field in SCHEMA])
POINTS = pa.list_(pa.float32())
WALKS = ("explainer", "curve", "query_id", "reference_id")
CURVES = pa.schema([*((key, TEXT) for key in WALKS), ("fraction", POINTS), ("score", POINTS)])
PAIR = ("query_id", "reference_id")
POINT_TO_POINT = "point_to_point"  # among the maps: (pairs, rows, cols, reference rows, reference cols) of no method
MARK = b"sfam_bench"  # what a piece says of itself, in the metadata of its file
FORMAT: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
BROKEN = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Piece:
    """What a batch left, read and found sound; `skipped` are pairs that could not be explained: ids, and why."""

    records: pa.Table
    curves: pa.Table
    skipped: list[tuple[str, str, str]]
    explained: list[tuple[str, str]] | None  # the pairs of its maps, where it has any

    @classmethod
    def read(cls, root: Path, number: int, key: str) -> "Piece":
        """Read all of it; ValueError with what is wrong, in a line that begins with the file."""
        records, said = _read(place(root, "records", number), SCHEMA, key, number)
        repeats(records, KEYS, place(root, "records", number))
        path = place(root, "curves", number)
        curves, of_curves = _read(path, CURVES, key, number) if said["curves"] else (CURVES.empty_table(), {"rows": 0})
        if of_curves["rows"] != said["curves"]:
            raise ValueError(f"{path} holds {of_curves['rows']} of {said['curves']} curves")
        repeats(curves, WALKS, path)
        explained = _maps(place(root, "maps", number), said["maps"]) if said["maps"] else None
        return cls(records, curves, [(one[0], one[1], one[2]) for one in said["skipped"]], explained)


def place(root: Path, kind: str, number: int) -> Path:
    """Where the records, curves or maps of a batch lie."""
    return root / kind / f"{number:05d}.{'npz' if kind == 'maps' else 'parquet'}"


def write_piece(
    root: Path,
    number: int,
    key: str,
    records: Sequence[Any] | pd.DataFrame,
    maps: Mapping[str, np.ndarray] | None,
    curves: Sequence[Any],
    skipped: Sequence[tuple[str, str, str]],
) -> None:
    """Write what a batch leaves, records last."""
    said = {"key": key, "batch": number}
    if len(curves):
        points = pa.Table.from_pylist([vars(curve) for curve in curves], schema=CURVES)
        _write(place(root, "curves", number), points, said)
    if maps is not None:
        with atomic(place(root, "maps", number)) as temporary, temporary.open("wb") as file:
            np.savez(file, **maps)  # type: ignore[arg-type]  # numpy's stub takes the names for allow_pickle
    frame = pd.DataFrame(records) if len(records) else pd.DataFrame(columns=SCHEMA.names)
    table = pa.Table.from_pandas(frame[SCHEMA.names], schema=PLAIN, preserve_index=False, safe=True).cast(SCHEMA)
    beside = {"skipped": [list(one) for one in skipped], "curves": len(curves), "maps": sorted(maps or {})}
    _write(place(root, "records", number), table, {**said, **beside})


def says(path: Path) -> dict[str, Any]:
    """What a piece says of itself, out of its footer alone; nothing where it is broken or says nothing."""
    try:
        found = json.loads((pq.read_metadata(path).metadata or {})[MARK])
    except BROKEN:
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, table: pa.Table, said: Mapping[str, Any]) -> None:
    said = {**said, "rows": len(table)}
    marked = {MARK: json.dumps({**said, "digest": _digest(table, said)}, ensure_ascii=False).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(marked), temporary, **FORMAT)


def _read(path: Path, schema: pa.Schema, key: str, number: int) -> tuple[pa.Table, dict[str, Any]]:
    """A table and what it says of itself, both proved by the digest."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table, footer = file.read(use_threads=False), file.metadata.metadata or {}
        said = json.loads(footer.get(MARK, b"{}"))
        proved = said.pop("digest", "") == _digest(table, said)
    except Exception as error:  # a broken file raises a dozen kinds
        raise ValueError(f"{path} cannot be read ({line(error)})") from error
    if said.get("key") != key:
        raise ValueError(f"{path} is of another plan (key {said.get('key')}, expected {key})")
    if said.get("batch") != number:
        raise ValueError(f"{path} is of batch {said.get('batch')}")
    if not table.schema.equals(schema):
        raise ValueError(f"{path} has other columns than expected")
    if said.get("rows") != len(table):
        raise ValueError(f"{path} holds {len(table)} of {said.get('rows')} rows")
    if not proved:
        raise ValueError(f"{path} is damaged: its digest differs")
    return table, said


def _digest(table: pa.Table, said: Mapping[str, Any]) -> str:
    """A hash of all values, and of what is said of them; the order of dictionaries does not matter."""
    found = hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode())
    for column in table.columns:
        values = column.combine_chunks()
        if values.type == TEXT:
            words = pd.util.hash_array(np.array(values.dictionary.to_pylist(), object), categorize=False)
            found.update(words[values.indices.to_numpy()])
            continue
        if values.type == POINTS:
            found.update(values.value_lengths().to_numpy(zero_copy_only=False))
            values = values.flatten()
        found.update(values.to_numpy(zero_copy_only=False))
    return found.hexdigest()[:16]


def _maps(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """The pairs of a file of maps, each array of which is read against its checksum."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        pairs = list(zip(*(found[side].tolist() for side in PAIR), strict=True))
    except Exception as error:  # a broken zip raises half a dozen kinds
        raise ValueError(f"{path} cannot be read ({line(error)})") from error
    if sorted(found) != names or {len(array) for array in found.values()} != {len(pairs)}:
        raise ValueError(f"{path} holds other maps than its batch left")
    return pairs


def codes(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """A whole number a row, equal where all of these columns are."""
    found = np.zeros(len(table), np.int64)
    for name in names:
        column = table[name].combine_chunks()
        found = found * max(1, len(column.dictionary)) + column.indices.to_numpy()
    return found


def repeats(table: pa.Table, names: Sequence[str], path: Path) -> None:
    """ValueError where two rows are of the same."""
    if count := len(table) - len(pd.unique(codes(table, names))):
        raise ValueError(f"{path} holds {count} rows twice")


def distinct(table: pa.Table) -> set[tuple[str, str]]:
    """The pairs that a table is of."""
    both = pd.unique(codes(table, PAIR))
    queries, references = (table[side].combine_chunks().dictionary.to_pylist() for side in PAIR)
    return {(queries[code // len(references)], references[code % len(references)]) for code in both.tolist()}


def read_table(path: Path) -> pa.Table:
    """Read a table against its checksums, or say in one line what is wrong."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path} ({line(error)}): delete it and evaluate with resume=true") from error


def line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]
