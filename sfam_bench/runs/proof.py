"""The files of a run folder, proved by the digests in its manifest before their content is used."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import check_regular, digest
from sfam_bench.runs.chunks import PAIR, chunk_paths

DIGESTS = "digests"
ROWS = 1 << 17  # of a table in memory at a time
RESTORE = "restore it, or choose another run_dir"
AGAIN = "restore it, or evaluate again into another run_dir"
FROZEN = ("config.yaml", "pairs.parquet")  # written once, when a run begins
TABLES = ("records.parquet", "curves.parquet")  # of all batches
IDS = ("query_id", "reference_id", "kind", "query_class")
NUMBERS = ("score", "query_label")
NOT_ALWAYS = ("reference_class", "reference_label")  # part agreement has many references


def file_digests(root: Path) -> dict[str, str]:
    """The digest of each file of a run folder without an own digest, by relative path.

    Records and curves of a batch carry theirs; those of its maps stand in its records.
    """
    batches = {path.stem for path in chunk_paths(root)}
    maps = [path for path in chunk_paths(root, "maps") if path.stem not in batches]
    paths = [root / name for name in (*FROZEN, *TABLES)] + maps + sorted((root / "images").glob("*.png"))
    return {path.relative_to(root).as_posix(): digest(path) for path in paths if path.is_file()}


def check_digest(root: Path, manifest: Mapping[str, Any], path: Path, remedy: str = AGAIN) -> None:
    """Raise UserError, ending with `remedy`, if a file does not match its digest in the manifest.

    Nothing can be said of the files of runs that older versions wrote, and of images before a run is finished.
    """
    if DIGESTS not in manifest:
        return
    expected = manifest[DIGESTS].get(path.relative_to(root).as_posix())
    if expected is None and manifest.get("done"):
        raise UserError(f"{path} does not belong to what was written into {root}, by the digests there; {remedy}")
    if expected is not None and cached_digest(path) != expected:
        raise UserError(f"{path} is damaged or was edited (its digest differs): {remedy}")


def cached_digest(path: Path) -> str:
    """The digest of a file, cached while the file does not change; UserError if it is missing."""
    try:
        state = path.stat()
        return _digest_of(path, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise UserError(f"cannot read {path} ({first_line(error)}): {AGAIN}") from error


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, size: int, changed: int, inode: int) -> str:
    return digest(path)


def read_table(path: Path, remedy: str = AGAIN) -> pa.Table:
    """Read a table and verify its checksums; UserError in one line."""
    return pa.concat_tables(stream_table(path, remedy)).combine_chunks()


def stream_table(path: Path, remedy: str = AGAIN) -> Iterator[pa.Table]:
    """Read a table in parts and verify its checksums; the first part may be empty. UserError in one line."""
    try:
        # with pre_buffer, all bytes of the file would stay in memory until its end
        with pq.ParquetFile(check_regular(path), pre_buffer=False, page_checksum_verification=True) as file:
            yield file.schema_arrow.empty_table()
            for batch in file.iter_batches(ROWS):
                yield pa.Table.from_batches([batch])
    except Exception as error:  # a broken file raises a dozen kinds
        raise UserError(f"cannot read {path} ({first_line(error)}): {remedy}") from error


def cast_columns(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """The columns of a schema, cast to its types; UserError if the table has others."""
    if absent := [name for name in schema.names if table.column_names.count(name) != 1]:
        count = "no" if absent[0] not in table.column_names else "more than one"
        raise UserError(f"{path} is not a table of this project: it has {count} column {absent[0]}: {AGAIN}")
    try:
        found = table.select(schema.names).replace_schema_metadata(None).cast(schema)
    except (pa.ArrowException, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} has columns of other types than ours ({first_line(error)}): {AGAIN}") from error
    if empty := [name for name in schema.names if found[name].null_count and name != "value"]:  # NaN
        raise UserError(f"{path} has empty cells in column {empty[0]}: {AGAIN}")
    return found


def read_pairs(root: Path, manifest: Mapping[str, Any], remedy: str = AGAIN) -> pd.DataFrame:
    """The pairs of a run; UserError if the file was changed, is not a table of pairs, or repeats a pair of a kind."""
    path = root / "pairs.parquet"
    check_digest(root, manifest, path, remedy)
    table = read_table(path, remedy)
    if absent := [name for name in (*IDS, *NUMBERS) if table.column_names.count(name) != 1]:
        raise UserError(f"{path} is not a table of pairs: it has no column {absent[0]}; {remedy}")
    try:
        frame = table.to_pandas()
    except Exception as error:  # of foreign types: any
        raise UserError(f"cannot read {path} ({first_line(error)}): {remedy}") from error
    there = [name for name in NOT_ALWAYS if name in frame]
    if wrong := [
        name for name in (*IDS, *there[:1]) if not frame[name].map(lambda value: isinstance(value, str)).all()
    ]:
        raise UserError(f"{path}: column {wrong[0]} does not hold strings; {remedy}")
    if wrong := [name for name in (*NUMBERS, *there[1:]) if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise UserError(f"{path}: column {wrong[0]} does not hold numbers; {remedy}")
    if count := int(frame.duplicated(["kind", *PAIR]).sum()):
        raise UserError(f"{path} holds {count} pairs twice; {remedy}")
    return frame
