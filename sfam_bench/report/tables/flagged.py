"""Tables of the pairs that are left out of means, and why."""

from collections.abc import Container, Mapping

import pandas as pd

from sfam_bench.report.names import sort_explainers
from sfam_bench.report.tables.tables import Cell, Column, Table
from sfam_bench.statistics import NO_REASON, PAIR, exclusion_reasons

FLAGS = {
    "zero_range": "full and baseline image have equal scores",
    "constant_map": "constant map",
    "other_class": "reference of another class",
    "self_pair": "image paired with itself",
    "empty_mask": "empty mask",
    "no_parts": "no visible part",
    "not_matched": "original query does not retrieve its reference",
    "not_ahead": "original query is nearer to the negative",
    "reference_map": "no map of the reference",
    "constant_further_map": "constant map of a changed model or image",
    "nonfinite_map": "map not finite",
    NO_REASON: "value not finite",
}


def flagged_table(records: pd.DataFrame, blind: Container[str] = ()) -> Table | None:
    """The number of flagged pairs of each explainer of one (dataset, model, target), by reason."""
    why = records.assign(reason=exclusion_reasons(records))
    why = why[why["reason"] != ""]
    if why.empty:
        return None
    names, explainers = sorted(why["reason"].unique()), sort_explainers(why["explainer"].unique().tolist(), blind)
    rows = []
    for explainer in explainers:
        own = why[why["explainer"] == explainer]
        cells = [_flag_cell(own[own["reason"] == name]) for name in names]
        rows.append((explainer, tuple(cells)))
    columns = tuple(Column(FLAGS.get(name, name), name if name in FLAGS else "") for name in names)
    total = len(records.drop_duplicates(["query_id", "reference_id"]))
    note = f"Pairs (of {total}) excluded from at least one mean, and by how many metrics; means are over the others."
    return Table("Flagged pairs", columns, tuple(rows), note)


def left_out_table(records: Mapping[str, pd.DataFrame]) -> Table | None:
    """The number of pairs of each run that are flagged on any method, by reason; None if none is."""
    flagged = {name: own.assign(reason=exclusion_reasons(own)) for name, own in records.items()}
    names = sorted({reason for own in flagged.values() for reason in own["reason"].unique()} - {""})
    if not names:
        return None
    rows = []
    for run, own in flagged.items():
        whole = len(own.drop_duplicates(PAIR))
        counts = [len(own[own["reason"] == reason].drop_duplicates(PAIR)) for reason in names]
        rows.append((run, (Cell(str(whole)), *(Cell(str(count)) for count in counts))))
    columns = (Column("pairs"), *(Column(FLAGS.get(name, name)) for name in names))
    note = "Pairs excluded from at least one mean of at least one method, by reason; each mean is over the others."
    return Table("Flagged pairs", columns, tuple(rows), note, head="run")


def _flag_cell(records: pd.DataFrame) -> Cell:
    names = sorted(records["metric"].unique())
    pairs = len(records.drop_duplicates(["query_id", "reference_id"]))
    return Cell(f"{pairs} (of {len(names)} metrics)" if pairs else "0", hint=", ".join(names))
