"""Long records as matrices: a row for each pair, a column for each metric and explainer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError

RUN = ["dataset", "model", "target"]
PAIR = ["query_id", "reference_id"]
FACTS = "pair"  # the explainer under which facts of the pair itself are recorded
NO_REASON = "no_reason"  # the flag of a value that is not finite although nothing was flagged


@dataclass(frozen=True)
class Matrix:
    """One (dataset, model, target): a row for each pair, a column for each (metric, explainer), flagged as NaN."""

    run: tuple[str, ...]
    columns: list[tuple[str, str]]
    entries: np.ndarray
    clusters: np.ndarray  # the query's class
    flagged: list[str]  # of each column: 'zero_range 3, constant_map 1'


def matrices(records: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Matrix]:
    """The records as matrices; a pair that two kinds hold counts once."""
    label = pairs.drop_duplicates("query_id").set_index("query_id")["query_label"]
    once = records.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    if len(unknown := pd.Index(once["query_id"].unique()).difference(label.index)):
        raise UserError(f"the records hold the query {unknown[0]!r}, which pairs.parquet lacks: evaluate the run again")
    for run, frame in once.assign(reason=exclusion_reasons(once)).groupby(RUN, sort=False, observed=True):
        row, of_row = pd.factorize(pd.MultiIndex.from_frame(frame[PAIR]))
        column, of_column = pd.factorize(pd.MultiIndex.from_frame(frame[["metric", "explainer"]]))
        values = np.full((len(of_row), len(of_column)), np.nan)
        values[row, column] = frame["value"].where(frame["reason"] == "")
        clusters = label.loc[[query for query, _ in of_row]].to_numpy()
        left_out = (frame["reason"] != "").to_numpy()  # few, so that what follows is quick
        why, where = frame["reason"].to_numpy(dtype=object)[left_out], column[left_out]
        flagged = [_count_once(why[where == number]) for number in range(len(of_column))]
        yield Matrix(tuple(map(str, run)), list(of_column), values, clusters, flagged)


def _count_once(flags: np.ndarray) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(*np.unique(flags, return_counts=True), strict=True))


def exclusion_reasons(records: pd.DataFrame) -> pd.Series:
    """Why each record is left out of the means; '' for those that count."""
    flag = records["flag"].fillna("").astype(str)
    return flag.mask((flag == "") & ~np.isfinite(records["value"].to_numpy(dtype=float)), NO_REASON)


def area_errors(checks: pd.DataFrame) -> np.ndarray:
    """The integration error of each curve that was also computed in full; a pair that two kinds hold counts once.

    `checks` are the records of metrics whose role that is.
    """
    errors = checks.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    return errors.loc[exclusion_reasons(errors) == "", "value"].to_numpy(dtype=float)
