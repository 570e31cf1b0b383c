"""Pieces of a planned evaluation, checked one by one and streamed into one file of records and one of curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic
from sfam_bench.jobs.plan import Plan
from sfam_bench.runs.chunks import CURVES, PAIR, SCHEMA, Chunk, chunk_path, distinct_rows, parquet_format
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.proof import read_pairs
from sfam_bench.runs.store import RunStore

ROWS = 1 << 17  # per row group, and about the number held in memory
NOTHING: Mapping[str, Any] = MappingProxyType({})
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Merged:
    """The result of a merge: records, valid batches, missing batches, skipped pairs, and errors."""

    rows: int = 0
    batches: int = 0
    missing: list[int] = field(default_factory=list)
    skipped: list[tuple[int, str, str, str]] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every record is there."""
        return not (self.missing or self.skipped or self.wrong)

    @property
    def line(self) -> str:
        """The missing parts, the first few by name; empty if complete."""
        pairs = [f"{query} with {reference} ({why})" for _, query, reference, why in self.skipped]
        found = [
            _list_few("missing batches", [str(number) for number in self.missing]),
            _list_few("pairs that could not be explained", pairs),
            _list_few("unsound batches", list(self.wrong.values())),
        ]
        return "; ".join(filter(None, found))


def merge(root: Path, plan: Plan, partial: bool = False, facts: Mapping[str, Any] = NOTHING) -> Merged:
    """Merge all chunks into one run, or with `partial` the valid ones; `facts` are added to the manifest.

    UserError where one is missing or wrong, or lacks pairs. Pieces stay as they are, and until the manifest says that
    the run is merged, readers read them.
    """
    plan.prove(root)
    store, manifest = RunStore(root, plan.key), read_manifest(root)
    if manifest.get("config_hash") != plan.facts.get("identity"):
        raise UserError(f"{root}/manifest.json is not that of the plan: restore it, or plan again into another run_dir")
    store.remove_stale()
    found, seen = _Found(), set[str]()
    with atomic(root / "records.parquet") as records, atomic(root / "curves.parquet") as curves:
        with _Stream(records, SCHEMA) as to_records, _Stream(curves, CURVES) as to_curves:
            for chunk in found.sound(root, plan):
                if partial or found.merged.complete:  # else what is left is only looked at
                    to_records.add(chunk.records)
                    to_curves.add(chunk.curves)
                    seen.update(chunk.records["metric"].combine_chunks().dictionary.to_pylist())
            to_records.flush()
            to_curves.flush()
        merged = found.result(to_records.rows)
        if not (partial or merged.complete):
            raise UserError(
                f"{root} cannot be merged: {merged.line}; sfam-bench submit run run_dir={root} computes what is "
                "missing, or merge the valid chunks with partial=true"
            )
        earlier = {name: value for name, value in manifest.items() if name not in ("merged", "lost")}
        store.write_manifest({**earlier, "done": False})  # until both files are in their places, chunks are read
    late = {
        **facts,
        "shards": len(plan.batches),
        "skipped": _silent_metrics(plan, manifest.get("metrics") or {}, seen),
        "merged": {"batches": merged.batches, "records": to_records.rows, "curves": to_curves.rows},
        **({} if merged.complete else {"lost": _describe_lost(merged)}),
    }
    store.write_manifest({**earlier, **late, "done": merged.complete})
    return merged


@dataclass
class _Found:
    """The state of a merge in progress."""

    merged: Merged = field(default_factory=Merged)
    batches: int = 0

    def sound(self, root: Path, plan: Plan) -> Iterator[Chunk]:
        """The valid chunks in order; errors of the others are collected."""
        for number, pairs in enumerate(expected_pairs(root, plan)):
            if not chunk_path(root, "records", number).exists():
                self.merged.missing.append(number)
                continue
            try:
                chunk = Chunk.read(root, number, plan.key, plan.passes, [plan.code])
                _check_records(chunk, pairs, root, number)
            except ValueError as error:
                self.merged.wrong[number] = str(error)
                continue
            self.merged.skipped.extend((number, *one) for one in chunk.skipped)
            self.batches += 1
            yield chunk

    def result(self, rows: int) -> Merged:
        """The result, with the number of records."""
        return Merged(rows, self.batches, self.merged.missing, self.merged.skipped, self.merged.wrong)


@dataclass
class _Stream:
    """Writes tables in row groups of bounded size."""

    path: Path
    schema: pa.Schema
    rows: int = 0
    held: list[pa.Table] = field(default_factory=list)

    def __enter__(self) -> "_Stream":
        self.writer = pq.ParquetWriter(self.path, self.schema, **parquet_format(self.schema))
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def add(self, table: pa.Table) -> None:
        """Append a table."""
        self.held.append(table)
        self.rows += len(table)
        if sum(map(len, self.held)) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if any(map(len, self.held)):  # a row group has a row
            table = pa.concat_tables([one.replace_schema_metadata(None) for one in self.held])
            self.writer.write_table(table.unify_dictionaries().combine_chunks(), row_group_size=len(table))
        self.held = []


def expected_pairs(root: Path, plan: Plan) -> Iterator[Pairs]:
    """The pairs of each batch, as sfam_bench.datasets.pairs.batches cuts them."""
    remedy = "plan again into another run_dir, with each of pairs.kinds once"
    pairs = read_pairs(root, read_manifest(root), remedy)
    kinds, _ = pd.factorize(pairs["kind"])
    ids = [*pairs[list(PAIR)].iloc[np.argsort(kinds, kind="stable")].itertuples(index=False, name=None)]
    for first, last in pairwise(accumulate(plan.batches, initial=0)):
        yield ids[first:last]


def _check_records(chunk: Chunk, pairs: Pairs, root: Path, number: int) -> None:
    """Raise ValueError unless records, curves and maps are of exactly these pairs, less the skipped ones."""
    records, curves, maps = (chunk_path(root, kind, number) for kind in ("records", "curves", "maps"))
    left: set[tuple[str, ...]] = {(query, reference) for query, reference, _ in chunk.skipped}
    planned: set[tuple[str, ...]] = {*pairs}
    expected = planned - left
    found = {*distinct_rows(chunk.records, PAIR)}
    if strange := left - planned:
        raise ValueError(f"{records} skips {_format_pair(strange)}, which its batch does not have")
    if lost := expected - found:
        raise ValueError(f"{records} lacks {_format_pair(lost)}")
    for path, strange in ((records, found - expected), (curves, {*distinct_rows(chunk.curves, PAIR)} - expected)):
        if strange:
            raise ValueError(f"{path} has records of {_format_pair(strange)}, which is not in its batch")
    if chunk.explained is not None and chunk.explained != [pair for pair in pairs if pair in expected]:
        raise ValueError(f"{maps} is of other pairs than its batch, or in another order")


def _format_pair(pairs: set[tuple[str, ...]]) -> str:
    return f"{' with '.join(min(pairs))}" + (f" and {len(pairs) - 1} more" if len(pairs) > 1 else "")


def _list_few(what: str, names: Sequence[str]) -> str:
    return f"{what}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _silent_metrics(plan: Plan, metrics: Mapping[str, Any], seen: set[str]) -> list[str]:
    """The metrics without a record, except those computed on a random share of pairs."""
    settings = plan.config.get("metric") or {}
    return [name for name in metrics if name not in seen and (settings.get(name) or {}).get("share", 1) == 1]


def _describe_lost(merged: Merged) -> dict[str, Any]:
    """The description of what a partial merge lacks."""
    wrong = {str(number): why for number, why in merged.wrong.items()}
    return {"missing": merged.missing, "skipped": merged.skipped, "wrong": wrong}
