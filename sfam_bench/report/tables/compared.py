"""Differences of pairs of methods over several runs, with intervals that hold together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.report.names import to_prose
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table
from sfam_bench.statistics import LEVEL
from sfam_bench.statistics.intervals import clustered_intervals


def difference_frame(runs: Sequence[Summed], compared: Sequence[Sequence[str]], metric: str) -> pd.DataFrame:
    """Paired differences in a metric of each [method, other method] in each run, over the pairs of both.

    A run of several kinds of pairs has rows of each kind, too; the kind of the others is empty. Intervals are Student's
    over classes, with Bonferroni's correction for all rows: they hold together. A method that a run lacks has no row
    there.

    Raises:
        UserError: if no run has both methods of a pair.
    """
    found = [
        (run, kind, own, pair)
        for run in runs
        for kind, own in _pairs_by_kind(run)
        for pair in compared
        if all((metric, explainer) in run.run.matrix.entries for explainer in pair)
    ]
    if absent := [pair for pair in compared if all(pair != own for *_, own in found)]:
        raise UserError(f"no run has both {' and '.join(absent[0])}: name two methods that one of the runs has")
    rows = []
    for run, kind, own, (explainer, to) in found:
        matrix = run.run.matrix
        difference = matrix.block([(metric, explainer)]) - matrix.block([(metric, to)])
        difference = np.where(own[:, None], difference, np.nan)
        (interval,) = clustered_intervals(difference, matrix.clusters, level=1 - LEVEL / len(found), student=True)
        measured = (interval.mean, interval.low, interval.high, interval.count, interval.clusters)
        rows.append((run.name, kind, explainer, to, *measured, len(found)))
    names = ("run", "kind", "explainer", "to", "difference", "low", "high", "count", "clusters", "compared")
    return pd.DataFrame(rows, columns=names)


def _pairs_by_kind(run: Summed) -> list[tuple[str, np.ndarray]]:
    """Whether each pair counts: all under an empty name, and those of each kind if there are several."""
    pairs = run.run.pairs
    kinds = {
        str(kind): {*zip(own["query_id"], own["reference_id"], strict=True)} for kind, own in pairs.groupby("kind")
    }
    of_kind = [(kind, np.array([pair in own for pair in run.run.matrix.pairs])) for kind, own in kinds.items()]
    return [("", np.ones(len(run.run.matrix.pairs), bool)), *(of_kind if len(kinds) > 1 else [])]


def difference_table(frame: pd.DataFrame, label: str) -> Table:
    """The differences of `difference_frame` of a metric, a row for two methods, a column for a run or kind."""
    columns = [*frame[["run", "kind"]].drop_duplicates().itertuples(index=False, name=None)]
    found = frame.set_index(["explainer", "to", "run", "kind"]).sort_index()
    rows = []
    for pair in frame[["explainer", "to"]].drop_duplicates().itertuples(index=False, name=None):
        keys = [(*pair, *column) for column in columns]
        cells = (_difference_cell(found.loc[key]) if key in found.index else Cell(NOTHING) for key in keys)
        rows.append((" - ".join(pair), tuple(cells)))
    note = (
        "Difference on the same pairs [interval by Student's t over classes; with Bonferroni's correction for the "
        f"{len(frame)} comparisons shown, all hold together with 95 %]; bold: not zero."
    )
    labels = (Column(f"{run}, {to_prose(kind)}" if kind else run) for run, kind in columns)
    return Table(f"Differences in {label}", tuple(labels), tuple(rows), note, head="explainers")


def _difference_cell(row: pd.Series) -> Cell:
    sure = bool(row["low"] > 0 or row["high"] < 0)
    return Cell(f"{row['difference']:+.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]", best=sure)
