"""Tables of the pairs that are left out of means, and why."""

from collections.abc import Container, Iterator, Mapping

import numpy as np

from sfam_bench.report.names import sort_explainers
from sfam_bench.report.tables.tables import Cell, Column, Table
from sfam_bench.runs.matrix import NO_REASON, Matrix

FLAGS = {
    "zero_range": "the score hardly changes when the query is replaced by its baseline",
    "constant_map": "constant map",
    "other_class": "reference of another class",
    "self_pair": "image paired with itself",
    "empty_mask": "empty mask",
    "no_parts": "no visible part",
    "few_parts": "too few visible parts",
    "no_effect": "no part with a measured effect",
    "equal_relevance": "equal relevance on all parts",
    "not_matched": "original query does not retrieve its reference",
    "not_ahead": "original query is nearer to the negative",
    "reference_map": "no map of the reference",
    "constant_further_map": "constant map of a changed model or image",
    "nonfinite_further_map": "map of a changed model or image not finite",
    "no_fall": "nothing that was removed changes the score",
    "flat_curve": "score hardly changes along the curve",
    "zero_score": "the score that is explained is near zero",
    "no_raw_map": "map without its own scale",
    "no_entropy": "map of a single value",
    "not_searched": "reference outside the gallery",
    "nonfinite_map": "map not finite",
    "no_positive_part": "map without a positive part",
    "no_negative_part": "map without a negative part",
    "no_total": "map that sums to zero",
    "no_other_reference": "no second reference of that kind",
    "holds_when_empty": "decision that holds for the empty image",
    "alone_in_class": "query is the only image of its class",
    "equal_references": "references do not differ",
    "few_references": "too few references",
    "no_shared_parts": "no part in common",
    "no_matches": "no connected position on a part",
    "few_matches": "too few connected positions",
    "no_background": "region without background",
    "nonfinite_score": "score not finite",
    "nonfinite_value": "value not finite, without a reason",
    NO_REASON: "value not finite",
}


def flagged_table(matrix: Matrix, blind: Container[str] = ()) -> Table | None:
    """The number of flagged pairs of each explainer of one (dataset, model, target), by reason."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for (metric, explainer), flags in flagged_columns(matrix):
        for reason, rows in flags.items():
            found.setdefault((explainer, reason), {})[metric] = rows
    if not found:
        return None
    names = sorted({reason for _, reason in found})
    table = [
        (explainer, tuple(_flag_cell(found.get((explainer, name), {})) for name in names))
        for explainer in sort_explainers([*dict.fromkeys(explainer for explainer, _ in found)], blind)
    ]
    columns = tuple(Column(FLAGS.get(name, name), name if name in FLAGS else "") for name in names)
    note = (
        f"Number of pairs (of {len(matrix.pairs)}) that are left out of the mean of at least one metric, and of "
        "how many metrics; the means are over the other pairs."
    )
    return Table("Flagged pairs", columns, tuple(table), note)


def flagged_columns(matrix: Matrix) -> Iterator[tuple[tuple[str, str], dict[str, np.ndarray]]]:
    """The columns with flagged values, and their rows by reason."""
    for column in matrix.columns:
        if flags := matrix.flagged(column):
            yield column, flags


def left_out_table(matrices: Mapping[str, Matrix]) -> Table | None:
    """The number of pairs of each run that are flagged on any method, by reason; None if none is."""
    found = {}
    for name, matrix in matrices.items():
        flagged: dict[str, list[np.ndarray]] = {}
        for _, flags in flagged_columns(matrix):
            for reason, rows in flags.items():
                flagged.setdefault(reason, []).append(rows)
        found[name] = {reason: int(np.any(rows, axis=0).sum()) for reason, rows in flagged.items()}
    names = sorted({reason for counts in found.values() for reason in counts})
    if not names:
        return None
    table = [
        (name, (Cell(str(len(matrices[name].pairs))), *(Cell(str(counts.get(reason, 0))) for reason in names)))
        for name, counts in found.items()
    ]
    columns = (Column("pairs"), *(Column(FLAGS.get(name, name)) for name in names))
    note = "Pairs excluded from at least one mean of at least one method, by reason; each mean is over the others."
    return Table("Flagged pairs", columns, tuple(table), note, head="run")


def _flag_cell(by_metric: Mapping[str, np.ndarray]) -> Cell:
    if not by_metric:
        return Cell("0")
    pairs = int(np.any([*by_metric.values()], axis=0).sum())
    return Cell(f"{pairs} (of {len(by_metric)} metrics)", hint=", ".join(sorted(by_metric)))
