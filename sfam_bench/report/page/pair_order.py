"""In which order pairs are shown: where something failed first, then what was flagged, then by how badly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import SIGNED
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import sort_explainers, to_prose
from sfam_bench.report.tables.flagged import FLAGS
from sfam_bench.statistics import FACTS, PAIR, exclusion_reasons


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


def sort_pairs(pairs: pd.DataFrame, records: pd.DataFrame, manifest: Mapping[str, Any]) -> list[Ordered]:
    """All pairs of one run, the worst of the first method first."""
    pairs = pairs.drop_duplicates(PAIR)
    if "reference_label" not in pairs:  # part agreement: many references of many classes, none of which can be shown
        pairs = pairs.assign(reference_label=pairs["query_label"], reference_class="")
    methods = sort_explainers(
        [name for name in records["explainer"].unique().tolist() if name != FACTS], manifest.get("blind") or ()
    )
    catalogue = Catalogue.of(manifest)
    values, places = _first_method(records, methods[0] if methods else "", catalogue)
    flags, nearer = _flags(pairs, records), _best_own_class(pairs)
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


def _first_method(
    records: pd.DataFrame, method: str, catalogue: Catalogue
) -> tuple[dict[Any, tuple[str, float]], dict[Any, float]]:
    """By pair, a metric with its value, and the rank of the value among all pairs, from 0 (worst) to 1."""
    own = records[(records["explainer"] == method) & records["value"].notna()]
    values: dict[Any, tuple[str, float]] = {}
    places: dict[Any, float] = {}
    for metric in catalogue.first(SIGNED, own["metric"].unique()):
        part = own[own["metric"] == metric]
        part = part.assign(place=part["value"].rank(pct=True))
        for row in part.to_dict("records"):
            ids = (row["query_id"], row["reference_id"])
            if ids not in values:
                values[ids], places[ids] = (metric, row["value"]), row["place"]
    return values, places


def _flags(pairs: pd.DataFrame, records: pd.DataFrame) -> dict[Any, tuple[str, ...]]:
    """The flags of each pair in prose, without flags by design (same for all pairs of a kind and all methods)."""
    why = select_flagged(pairs, records)
    found: dict[Any, tuple[str, ...]] = {}
    for ids, part in why.groupby(PAIR, observed=True):
        by_reason = part.groupby("reason", observed=True)["explainer"].agg(lambda names: [*dict.fromkeys(names)])
        found[ids] = tuple(
            f"{FLAGS.get(str(reason), to_prose(str(reason)))} ({_list_few(names)})"
            for reason, names in by_reason.items()
        )
    return found


def select_flagged(pairs: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The flagged records with a `reason`, without flags by design: those of all pairs of a kind."""
    kinds = pairs[[*PAIR, "kind"]].drop_duplicates(PAIR)
    why = records.assign(reason=exclusion_reasons(records)).merge(kinds, on=PAIR)
    every = why.groupby(["kind", "metric"], observed=True)["reason"].transform("nunique")
    return why[(why["reason"] != "") & (every > 1)]


def _list_few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} methods"


def _best_own_class(pairs: pd.DataFrame) -> dict[str, float]:
    """The highest score of each query with its own class in this run."""
    own = pairs[pairs["query_label"] == pairs["reference_label"]]
    return {str(query): float(score) for query, score in own.groupby("query_id")["score"].max().items()}
