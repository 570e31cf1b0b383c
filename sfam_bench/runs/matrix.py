"""The records of a run as a matrix, a row per pair, a column per metric and explainer: nine bytes for each record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sfam_bench.core.errors import UserError
from sfam_bench.runs.chunks import KEYS, SCHEMA, distinct_rows, encode_rows
from sfam_bench.runs.proof import AGAIN

RUN = ["dataset", "model", "target"]
PAIR = ["query_id", "reference_id"]
FACTS = "pair"  # in place of an explainer, for values of the pair itself
NO_REASON = "no_reason"  # reason of a non-finite value without a flag
ABSENT = 255  # code of a cell without a record
COLUMN = ("metric", "explainer")
Key = tuple[str, str]
Tables = Callable[[], Iterable[pa.Table]]  # the records in parts, from the start at each call


@dataclass(frozen=True)
class Matrix:
    """The records of one (dataset, model, target); a pair in two kinds counts once.

    run: dataset, model, target.
    pairs: query and reference of each row, in the order of the records.
    clusters: the query's class of each row.
    entries: the values of each (metric, explainer), NaN where none counts.
    codes: for each (metric, explainer), 0 where a value counts, ABSENT without a record, else the place in `reasons`.
    reasons: why values do not count; the first is empty.
    """

    run: tuple[str, ...]
    pairs: list[Key]
    clusters: np.ndarray
    entries: Mapping[Key, np.ndarray]
    codes: Mapping[Key, np.ndarray]
    reasons: tuple[str, ...]

    @property
    def columns(self) -> list[Key]:
        """(metric, explainer) of each column."""
        return [*self.entries]

    @property
    def metrics(self) -> list[str]:
        """The metrics, in the order of the records."""
        return [*dict.fromkeys(metric for metric, _ in self.entries)]

    @property
    def explainers(self) -> list[str]:
        """The explainers, in the order of the records, without FACTS."""
        return [*dict.fromkeys(explainer for _, explainer in self.entries if explainer != FACTS)]

    def block(self, columns: Sequence[Key]) -> np.ndarray:
        """The values of some columns, (pairs, columns)."""
        return np.stack([self.entries[column] for column in columns], axis=1)

    def select(self, keep: Callable[[str, str], bool]) -> "Matrix":
        """The columns for which keep(metric, explainer); nothing is copied."""
        kept = [column for column in self.entries if keep(*column)]
        entries, codes = ({one: found[one] for one in kept} for found in (self.entries, self.codes))
        return replace(self, entries=entries, codes=codes)

    def of_metric(self, metric: str) -> "Matrix":
        """The columns of one metric."""
        return self.select(lambda name, _: name == metric)

    def flagged(self, column: Key) -> dict[str, np.ndarray]:
        """The rows of a column whose value does not count, by reason."""
        codes = self.codes[column]
        present = [int(code) for code in np.unique(codes) if 0 < code < ABSENT]
        return {name: codes == code for name, code in sorted((self.reasons[code], code) for code in present)}

    @classmethod
    def of(cls, records: pd.DataFrame, pairs: pd.DataFrame) -> "Matrix":
        """The matrix of a long frame with the columns of chunks.SCHEMA; UserError if it has several runs."""
        frame = records[list(SCHEMA.names)].astype(dict.fromkeys(KEYS, str)).fillna({"flag": ""})
        table = pa.Table.from_pandas(frame, preserve_index=False).cast(SCHEMA)
        return build_matrix(lambda: [table], pairs)


def build_matrix(tables: Tables, pairs: pd.DataFrame, root: Path | None = None) -> Matrix:
    """Build a matrix from records in parts, which are read twice; `root` is for messages.

    UserError if they are of several (dataset, model, target), if a value belongs to no pair or is repeated (once per
    kind of its pair is allowed).
    """
    where = f"the records in {root}" if root else "the records"
    rows, columns, runs = (dict[Any, int]() for _ in range(3))
    for table in tables():
        for known, names in ((rows, PAIR), (columns, COLUMN), (runs, RUN)):
            for key in distinct_rows(table, names):
                known.setdefault(key, len(known))
    if len(runs) > 1:
        several = "; ".join(" · ".join(run) for run in runs)
        raise UserError(f"{where} are of several data sets, models or targets ({several}): {AGAIN}")
    kinds = pairs.groupby(PAIR, sort=False).size()
    if strange := sorted(rows.keys() - {*kinds.index}):
        raise UserError(f"{where} are of {' with '.join(strange[0])}, which is not a pair of the run: {AGAIN}")
    shape = len(rows), len(columns)
    entries, codes = np.full(shape, np.nan, order="F"), np.full(shape, ABSENT, np.uint8, order="F")
    reasons, repeats = {"": 0}, [np.empty(0, np.int64)]
    for table in tables():
        row, column = _places(table, PAIR, rows), _places(table, COLUMN, columns)
        cell = row * len(columns) + column
        repeats.append(cell[(codes[row, column] != ABSENT) | pd.Index(cell).duplicated()])
        value, code = table["value"].to_numpy(), _code(table, reasons)
        # the first record of a cell counts, in this table as in earlier ones
        first = (codes[row, column] == ABSENT).nonzero()[0][::-1]
        entries[row[first], column[first]] = np.where(code[first] == 0, value[first], np.nan)
        codes[row[first], column[first]] = code[first]
    pa.default_memory_pool().release_unused()  # some 100 MB, which arrow would keep for further tables
    (run,) = runs or [("", "", "")]
    keys = [*rows]
    cells, times = np.unique(np.concatenate(repeats), return_counts=True)
    allowed = kinds.reindex([keys[cell // len(columns)] for cell in cells]).to_numpy() - 1
    if count := len(twice := cells[times > allowed]):
        at, number = divmod(int(twice[0]), len(columns))
        metric, explainer = [*columns][number]
        first = " · ".join([*run, explainer, metric, *keys[at]])
        raise UserError(f"{where} hold {count} values twice, first of {first}: {AGAIN}")
    label = pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    clusters = label.loc[[query for query, _ in keys]].to_numpy()
    values, why = ({key: array[:, number] for key, number in columns.items()} for array in (entries, codes))
    return Matrix(run, keys, clusters, values, why, tuple(reasons))


def _places(table: pa.Table, names: Sequence[str], known: Mapping[tuple[str, ...], int]) -> np.ndarray:
    """The place of each row's key."""
    codes = encode_rows(table, names)[0]
    number, distinct = pd.factorize(codes)
    return np.array([known[key] for key in distinct_rows(table, names)], np.int64)[number] if len(distinct) else number


def _code(table: pa.Table, reasons: dict[str, int]) -> np.ndarray:
    """The code of each row's flag; new reasons are added."""
    codes, (flags,) = encode_rows(table, ["flag"])
    for flag in (*flags, NO_REASON):
        reasons.setdefault(flag, len(reasons))
    found = np.array([reasons[flag] for flag in flags], np.uint8)[codes]
    lost = (found == 0) & ~np.isfinite(table["value"].to_numpy())
    return np.where(lost, np.uint8(reasons[NO_REASON]), found)


def area_errors(checks: Matrix) -> np.ndarray:
    """The integration errors of curves that were also computed with all points: the metrics with the role "check"."""
    values = np.concatenate([np.empty(0), *checks.entries.values()])
    return values[np.isfinite(values)]
