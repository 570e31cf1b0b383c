"""Chunks: the files of one batch, each with the digest of its content, so that damage is found."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sfam_bench.core.errors import first_line
from sfam_bench.core.files import atomic, check_regular, digest
from sfam_bench.core.provenance import running_code

KEYS = ("dataset", "model", "target", "explainer", "metric", "query_id", "reference_id")
TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([*((key, TEXT) for key in KEYS), ("value", pa.float64()), ("flag", TEXT)])
PLAIN = pa.schema([(field.name, pa.string() if field.type == TEXT else field.type) for field in SCHEMA])
POINTS = pa.list_(pa.float32())
WALKS = ("explainer", "curve", "query_id", "reference_id")
CURVES = pa.schema([*((key, TEXT) for key in WALKS), ("fraction", POINTS), ("score", POINTS)])
PAIR = ("query_id", "reference_id")
MARK = b"sfam_bench"  # the facts of a chunk, in the metadata of its file
SEAL, BLANK = "sha256", "0" * 64  # the digest of a file that carries it, for which it is written as zeros
BROKEN = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Chunk:
    """The chunk of a batch, read and verified.

    `skipped` are pairs that could not be explained: ids, and why; `explained` the pairs of its maps, where it has any;
    `code` the hash of the code that made it, and `passes` the mode in which that took forward passes.
    """

    records: pa.Table
    curves: pa.Table
    skipped: list[tuple[str, str, str]]
    explained: list[tuple[str, str]] | None
    code: str = ""
    passes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        root: Path,
        number: int,
        key: str,
        passes: Mapping[str, Any] | None = None,
        codes: Collection[str] | None = None,
    ) -> "Chunk":
        """Read it; ValueError, starting with the file name, if it is not valid.

        `passes` are those in which it must have been computed, `codes` the hashes of code that may have made it; None
        accepts any.
        """
        records, facts = read_chunk(chunk_path(root, "records", number), SCHEMA, key, number)
        check_code_and_mode(chunk_path(root, "records", number), facts, passes, codes)
        check_unique(records, KEYS, chunk_path(root, "records", number))
        curves = CURVES.empty_table()
        if facts["curves"]:
            path = chunk_path(root, "curves", number)
            _check_digest(path, facts["curves"]["sha256"])
            curves, _ = read_chunk(path, CURVES, key, number)
            check_unique(curves, WALKS, path)
        explained = None
        if facts["maps"]:
            path = chunk_path(root, "maps", number)
            _check_digest(path, facts["maps"]["sha256"])
            explained = _maps(path, facts["maps"]["names"])
        skipped = [(one[0], one[1], one[2]) for one in facts["skipped"]]
        return cls(records, curves, skipped, explained, facts["code"], facts["passes"])


def chunk_path(root: Path, kind: str, number: int) -> Path:
    """The path of the records, curves or maps of a batch."""
    return root / kind / f"{number:05d}.{_suffix(kind)}"


def chunk_paths(root: Path, kind: str = "records") -> list[Path]:
    """The paths of the records, curves or maps of all batches, in order."""
    return sorted((root / kind).glob(f"[0-9]*.{_suffix(kind)}"))


def _suffix(kind: str) -> str:
    return "npz" if kind == "maps" else "parquet"


def write_chunk(
    root: Path,
    number: int,
    key: str,
    records: Sequence[Any] | pd.DataFrame,
    maps: Mapping[str, np.ndarray] | None,
    curves: Sequence[Any],
    skipped: Sequence[tuple[str, str, str]],
    passes: Mapping[str, Any],
) -> None:
    """Write the chunk of a batch, records last: their footer has the digests of curves and maps."""
    facts: dict[str, Any] = {"key": key, "batch": number, "code": running_code(), "passes": dict(passes)}
    beside: dict[str, Any] = {"skipped": [list(one) for one in skipped], "curves": None, "maps": None}
    if len(curves):
        path = chunk_path(root, "curves", number)
        _write(path, pa.Table.from_pylist([vars(curve) for curve in curves], schema=CURVES), facts)
        beside["curves"] = {"rows": len(curves), "sha256": digest(path)}
    if maps is not None:
        path = chunk_path(root, "maps", number)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **maps)  # type: ignore[arg-type]  # numpy's stub takes the names for allow_pickle
        beside["maps"] = {"names": sorted(maps), "sha256": digest(path)}
    frame = pd.DataFrame(records) if len(records) else pd.DataFrame(columns=SCHEMA.names)
    table = pa.Table.from_pandas(frame[SCHEMA.names], schema=PLAIN, preserve_index=False, safe=True).cast(SCHEMA)
    _write(chunk_path(root, "records", number), table, {**facts, **beside})


def read_footer(path: Path) -> dict[str, Any]:
    """The facts in the footer of a chunk; empty if it cannot be read or has none."""
    try:
        found = json.loads((pq.read_metadata(path).metadata or {})[MARK])
    except BROKEN:
        return {}
    return found if isinstance(found, dict) else {}


def check_code_and_mode(
    path: Path, facts: Mapping[str, Any], passes: Mapping[str, Any] | None, codes: Collection[str] | None
) -> None:
    """Raise ValueError if a chunk was computed with another mode of passes, or by other code."""
    if passes is not None and facts.get("passes") != dict(passes):
        raise ValueError(
            f"{path} has passes {describe_passes(facts.get('passes'))}, expected {describe_passes(passes)}"
        )
    if codes is not None and facts.get("code") not in codes:
        raise ValueError(f"{path} was made by other code ({facts.get('code')}, expected {' or '.join(codes)})")


def describe_passes(passes: Mapping[str, Any] | None) -> str:
    """A mode of passes in one line."""
    return ", ".join(f"{name} {value}" for name, value in (passes or {}).items()) or "unknown"


def parquet_format(schema: pa.Schema) -> dict[str, Any]:
    """How a file of this schema is written: the bytes of values of equal weight together, which saves a third."""
    common: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    if schema.get_field_index("value") < 0:
        return common
    named = [name for name in schema.names if name != "value"]
    return {**common, "use_dictionary": named, "column_encoding": {"value": "BYTE_STREAM_SPLIT"}}


def _write(path: Path, table: pa.Table, facts: Mapping[str, Any]) -> None:
    """Write a table with its digest in the footer."""
    marked = {MARK: json.dumps({**facts, "rows": len(table), SEAL: BLANK}, ensure_ascii=False).encode()}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(marked), temporary, **parquet_format(table.schema))
        content = temporary.read_bytes()
        before, name, after = content.rpartition(_seal(BLANK))
        temporary.write_bytes(before + name.replace(BLANK.encode(), _sha256(content).encode()) + after)


def read_chunk(
    path: Path, schema: pa.Schema, key: str | None, number: int, sealed: bool = True
) -> tuple[pa.Table, dict[str, Any]]:
    """The records or curves of a batch and the facts in their footer, both checked by digest.

    With `key` None they may be of any plan. Without `sealed`, chunks that an older version wrote, which carry no
    digest, are given as they are. ValueError with what is wrong, in a line that begins with the file.
    """
    try:
        content = check_regular(path).read_bytes()
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            table, footer = file.read(use_threads=False), file.metadata.metadata or {}
        facts = json.loads(footer.get(MARK, b"{}"))
        seal = facts.pop(SEAL, "")
        before, _, after = content.rpartition(_seal(seal))
    except Exception as error:  # a broken file raises a dozen kinds
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from error
    if not (sealed or seal):
        return table, facts
    if key is not None and facts.get("key") != key:
        raise ValueError(f"{path} is of another plan (key {facts.get('key')}, expected {key})")
    if facts.get("batch") != number:
        raise ValueError(f"{path} is of batch {facts.get('batch')}")
    if not table.schema.equals(schema):
        raise ValueError(f"{path} has other columns than expected")
    if facts.get("rows") != len(table):
        raise ValueError(f"{path} has {len(table)} of {facts.get('rows')} rows")
    if seal != _sha256(before + _seal(BLANK) + after):
        raise ValueError(f"{path} is damaged: its digest differs")
    return table, facts


def _seal(value: str) -> bytes:
    return f'"{SEAL}": "{value}"'.encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_digest(path: Path, expected: str) -> None:
    """Raise ValueError unless the digest of a file is the one in its records."""
    try:
        found = digest(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from error
    if found != expected:
        raise ValueError(f"{path} is damaged: its digest differs")


def _maps(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """The pairs of a file of maps; each array is read and its checksum verified."""
    try:
        with np.load(check_regular(path), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        pairs = list(zip(*(found[side].tolist() for side in PAIR), strict=True))
    except Exception as error:  # a broken zip raises half a dozen kinds
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from error
    if sorted(found) != names or {len(array) for array in found.values()} != {len(pairs)}:
        raise ValueError(f"{path} holds other maps than its batch left")
    return pairs


def encode_rows(table: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, list[list[str]]]:
    """An integer per row, equal for rows equal in all of these columns, and the values of each column."""
    found, values = np.zeros(len(table), np.int64), []
    for name in names:
        column = table[name].combine_chunks()
        values.append(column.dictionary.to_pylist())
        found = found * max(1, len(values[-1])) + column.indices.to_numpy()
    return found, values


def check_unique(table: pa.Table, names: Sequence[str], path: Path) -> None:
    """Raise ValueError if two rows are equal in these columns."""
    if count := len(table) - len(pd.unique(encode_rows(table, names)[0])):
        raise ValueError(f"{path} holds {count} rows twice")


def distinct_rows(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The distinct rows of some columns, in the order of their first occurrence."""
    codes, values = encode_rows(table, names)
    for code in pd.unique(codes).tolist():
        key = []
        for own in reversed(values):
            code, place = divmod(code, len(own))
            key.append(own[place])
        yield tuple(reversed(key))
