"""Long records as matrices: a row per pair, a column per metric and explainer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError

RUN = ["dataset", "model", "target"]
PAIR = ["query_id", "reference_id"]
FACTS = "pair"  # in place of an explainer, for values of the pair itself
NO_REASON = "no_reason"  # reason of a non-finite value without a flag


@dataclass(frozen=True)
class Matrix:
    """One (dataset, model, target): a row per pair, a column per (metric, explainer), NaN where flagged."""

    run: tuple[str, ...]
    columns: list[tuple[str, str]]
    entries: np.ndarray
    clusters: np.ndarray  # the query's class
    flagged: list[str]  # counts per column, such as 'zero_range 3, constant_map 1'


def matrices(records: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Matrix]:
    """Yield the records as matrices; a pair that occurs in two kinds counts once."""
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
        excluded = (frame["reason"] != "").to_numpy()  # only a few
        why, where = frame["reason"].to_numpy(dtype=object)[excluded], column[excluded]
        flagged = [_format_counts(why[where == number]) for number in range(len(of_column))]
        yield Matrix(tuple(map(str, run)), list(of_column), values, clusters, flagged)


def _format_counts(flags: np.ndarray) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(*np.unique(flags, return_counts=True), strict=True))


def exclusion_reasons(records: pd.DataFrame) -> pd.Series:
    """The reason why each record is excluded from means; '' for included ones."""
    flag = records["flag"].fillna("").astype(str)
    return flag.mask((flag == "") & ~np.isfinite(records["value"].to_numpy(dtype=float)), NO_REASON)


def area_errors(checks: pd.DataFrame) -> np.ndarray:
    """The integration errors of curves that were recomputed with all points; a pair in two kinds counts once.

    `checks` are the records of metrics with the role "check".
    """
    errors = checks.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    return errors.loc[exclusion_reasons(errors) == "", "value"].to_numpy(dtype=float)
