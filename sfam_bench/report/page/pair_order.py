"""In which order pairs are shown: where something failed first, then what was flagged, then by how badly."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import SIGNED
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import sort_explainers, to_prose
from sfam_bench.report.tables.flagged import FLAGS, flagged_columns
from sfam_bench.runs.matrix import ABSENT, PAIR, Key, Matrix
from sfam_bench.runs.reader import Run


@dataclass(frozen=True)
class Ordered:
    """A pair with its failures and flags in prose, and the rank of its score among pairs of its kind: 0 is worst."""

    row: Mapping[str, Any]
    failed: tuple[str, ...]
    flagged: tuple[str, ...]
    well: float

    @property
    def ids(self) -> tuple[str, str]:
        """Query and reference."""
        return self.row["query_id"], self.row["reference_id"]

    @property
    def shown(self) -> dict[str, Any]:
        """The text of the pair in a list."""
        texts = {name: str(self.row[name]) for name in (*PAIR, "query_class", "reference_class")}
        score = float(self.row["score"])
        known = {"kind": to_prose(str(self.row["kind"])), "score": score if np.isfinite(score) else None}
        return {**texts, **known, "failed": self.failed, "flagged": self.flagged}


def sort_pairs(
    pairs: pd.DataFrame, matrix: Matrix, manifest: Mapping[str, Any], shown: Container[Key] | None = None
) -> list[Ordered]:
    """The pairs of one run, or those of them that are `shown`, the worst of the first method first."""
    pairs = _with_labels(pairs.drop_duplicates(PAIR))
    methods = sort_explainers(matrix.explainers, manifest.get("blind") or ())
    catalogue = Catalogue.of(manifest)
    chosen = np.array([shown is None or pair in shown for pair in matrix.pairs], dtype=bool)
    values, places = _first_method(matrix, methods[0] if methods else "", catalogue, chosen)
    flags, nearer = _flags(pairs, matrix, chosen), _best_own_class(pairs)
    if shown is not None:
        pairs = pairs[[pair in shown for pair in zip(*(pairs[name] for name in PAIR), strict=True)]]
    found = []
    for row in pairs.to_dict("records"):
        ids = (row["query_id"], row["reference_id"])
        metric, value = values.get(ids, ("", np.nan))
        failed = (
            [f"{catalogue.label(metric)} of {methods[0]} is {value:.3f}: no better than chance"] if value <= 0 else []
        )
        if row["query_label"] != row["reference_label"] and row["score"] >= nearer.get(row["query_id"], np.inf):
            failed.append("another class is nearer than the query's own class")
        found.append(Ordered({str(k): v for k, v in row.items()}, (*failed,), flags.get(ids, ()), places.get(ids, 1.0)))
    return sorted(found, key=lambda pair: (not pair.failed, not pair.flagged, pair.well))


def select_worst(run: Run, count: int) -> set[Key]:
    """The `count` pairs with the worst values of the first method by each headline metric."""
    matrix, catalogue = run.matrix, Catalogue.of(run.manifest)
    if not (methods := sort_explainers(matrix.explainers, run.blind)):
        return set()
    own = matrix.select(lambda metric, name: name == methods[0] and catalogue.direction(metric) is not None)
    found: set[Key] = set()
    for metric in catalogue.headlines(own.metrics):
        values = own.entries[metric, methods[0]]
        worst_first = np.argsort(values if catalogue.direction(metric) else -values, kind="stable")  # NaN is last
        found |= {matrix.pairs[row] for row in worst_first[:count] if np.isfinite(values[row])}
    return found


def count_failures(run: Run, catalogue: Catalogue) -> int:
    """The number of pairs that `sort_pairs` calls failures, of all pairs of a run."""
    methods = sort_explainers(run.matrix.explainers, run.blind)
    pairs = _with_labels(run.pairs.drop_duplicates(PAIR))
    everything = np.ones(len(run.matrix.pairs), dtype=bool)
    values, _ = _first_method(run.matrix, methods[0] if methods else "", catalogue, everything)
    nearest = pairs["query_id"].map(_best_own_class(pairs)).fillna(np.inf)
    rivals = pairs[(pairs["query_label"] != pairs["reference_label"]) & (pairs["score"] >= nearest)]
    failed = {ids for ids, (_, value) in values.items() if value <= 0}
    return len(failed.union(rivals[PAIR].itertuples(index=False, name=None)))


def _with_labels(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs with a class of the reference; part agreement has many references of many classes, and gets its own."""
    if "reference_label" in pairs:
        return pairs
    return pairs.assign(reference_label=pairs["query_label"], reference_class="")


def _first_method(
    matrix: Matrix, method: str, catalogue: Catalogue, chosen: np.ndarray
) -> tuple[dict[Any, tuple[str, float]], dict[Any, float]]:
    """By chosen pair, a metric with its value, and the rank of the value among all pairs, from 0 (worst) to 1."""
    own = matrix.select(lambda _, explainer: explainer == method)
    present = [metric for metric, _ in own.columns if np.isfinite(own.entries[metric, method]).any()]
    values: dict[Any, tuple[str, float]] = {}
    places: dict[Any, float] = {}
    for metric in catalogue.first(SIGNED, present):
        found = own.entries[metric, method]
        ranked = pd.Series(found).rank(pct=True).to_numpy()
        for row in np.flatnonzero(chosen & np.isfinite(found)).tolist():
            if (ids := matrix.pairs[row]) not in values:
                values[ids], places[ids] = (metric, float(found[row])), float(ranked[row])
    return values, places


def _flags(pairs: pd.DataFrame, matrix: Matrix, chosen: np.ndarray) -> dict[Any, tuple[str, ...]]:
    """The flags of each chosen pair in prose, without flags by design (same for all pairs of a kind)."""
    why = select_flagged(pairs, matrix, chosen)
    found: dict[Any, tuple[str, ...]] = {}
    for ids, part in why.groupby(PAIR, observed=True):
        by_reason = part.groupby("reason", observed=True)["explainer"].agg(lambda names: [*dict.fromkeys(names)])
        found[ids] = tuple(
            f"{FLAGS.get(str(reason), to_prose(str(reason)))} ({_list_few(names)})"
            for reason, names in by_reason.items()
        )
    return found


def select_flagged(pairs: pd.DataFrame, matrix: Matrix, chosen: np.ndarray | None = None) -> pd.DataFrame:
    """The flagged values, a row each with its `reason`, without flags by design: those of all pairs of a kind.

    `chosen` (pairs of the matrix,) restricts the rows.
    """
    kind_of = pairs.drop_duplicates(PAIR).set_index(PAIR)["kind"]
    kinds = kind_of.reindex(pd.MultiIndex.from_tuples(matrix.pairs, names=PAIR)).to_numpy()
    rows: list[tuple[str, ...]] = []
    for metric in matrix.metrics:
        own = matrix.of_metric(metric)
        columns = [column for column, _ in flagged_columns(own)]
        for kind in pd.unique(kinds[pd.notna(kinds)]) if columns else ():
            of_kind = np.flatnonzero(kinds == kind)
            codes = {code for one in own.codes.values() for code in np.unique(one[of_kind])} - {ABSENT}
            if len(codes) < 2:
                continue
            of_kind = of_kind if chosen is None else of_kind[chosen[of_kind]]
            for column in columns:
                for reason, flagged in own.flagged(column).items():
                    rows += [(*matrix.pairs[row], column[1], reason) for row in of_kind[flagged[of_kind]].tolist()]
    return pd.DataFrame(rows, columns=[*PAIR, "explainer", "reason"])


def _list_few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} methods"


def _best_own_class(pairs: pd.DataFrame) -> dict[str, float]:
    """The highest score of each query with its own class in this run."""
    own = pairs[pairs["query_label"] == pairs["reference_label"]]
    return {str(query): float(score) for query, score in own.groupby("query_id")["score"].max().items()}
