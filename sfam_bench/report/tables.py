"""From tidy summaries to tables that fit a page: metrics that see the pair first, the others after them."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.report.names import (
    COMPARED,
    GROUPS,
    arrow,
    chance_of,
    decimals,
    group,
    headlines,
    place,
    sort_explainers,
    sort_metrics,
    words,
)
from sfam_bench.statistics import FACTS, NO_REASON, PAIR, reasons

MEANS = "Mean [95 % interval]; bold: best, and with ≈ what is not distinguishable from it over the same pairs."
WIDTH = 5  # columns of a table that still fit a page
NOTHING = "--"


@dataclass(frozen=True)
class Cell:
    """A number with its interval, as text, and what a reader should know of it."""

    text: str
    interval: str = ""
    best: bool = False
    tied: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """What stands above the cells."""

    label: str
    note: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """Explainers (or what `head` says) down, metrics across; `blind` cannot see why the pair is alike."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""
    blind: frozenset[str] = frozenset()
    head: str = "explainer"


@dataclass(frozen=True)
class Report:
    """The means of all runs, and by its title the protocol of each (dataset, model, target)."""

    summary: pd.DataFrame
    protocols: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def mark(frame: pd.DataFrame, blind: Container[str]) -> pd.DataFrame:
    """Say of each row whether its explainer is blind to the pair."""
    return frame.assign(blind=[name in blind for name in frame["explainer"]])


def remarked(tables: Sequence[Table], remark: str) -> list[Table]:
    """The tables, with something that each must say wherever it is printed."""
    return [replace(table, note=" ".join(filter(None, [table.note, remark]))) for table in tables]


def metric_tables(summary: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]], head: str = "") -> list[Table]:
    """The tables of one (dataset, model, target); `head` begins their titles."""
    names = summary["metric"].drop_duplicates().tolist()
    levels = {name: chance_of(name, metrics) for name in names}
    chances = {name: float(summary.loc[summary["metric"] == level, "mean"].mean()) for name, level in levels.items()}
    own = summary[(summary["explainer"] != FACTS) & ~summary["metric"].isin(levels.values())]
    blocks = [(": ".join(filter(None, [head, title])), part) for _, title, part in _blocks(own)]
    return [_table(title, part, MEANS, chances) for title, part in blocks]


def run_table(title: str, summary: pd.DataFrame, chances: Mapping[str, float]) -> Table:
    """One metric, a column for each model; `chances` are its chance levels by model."""
    whole = _table(title, summary, MEANS, {})
    models = summary["model"].drop_duplicates().astype(str).tolist()
    counts = [column.note.rpartition("; ")[2] for column in whole.columns]
    levels = [f"chance {chances[model]:.3f}" if model in chances else "" for model in models]
    heads = zip(models, counts, levels, strict=True)
    columns = tuple(Column(model, "; ".join(filter(None, notes))) for model, *notes in heads)
    return replace(whole, columns=columns)


def difference_tables(differences: pd.DataFrame, summary: pd.DataFrame) -> list[Table]:
    """The paired differences of one (dataset, model, target), for the metrics that have a direction."""
    if differences.empty:
        return []
    to = differences["to"].iloc[0]
    directions = summary.drop_duplicates("metric").set_index("metric")["higher_is_better"]
    frame = differences.assign(mean=differences["difference"], tied=False, flagged="", signed=True)
    frame["higher_is_better"] = frame["metric"].map(directions).astype("boolean")
    frame = frame[frame["higher_is_better"].notna()]
    better = (frame["low"] > 0).where(frame["higher_is_better"].astype(bool), frame["high"] < 0)
    note = (
        f"Explainer minus {to} over the same pairs [95 % interval]; bold: better than {to}, the interval holds no zero."
    )
    blocks = _blocks(frame.assign(best=better))
    return [_table(f"{title}: difference to {to}", part, note, {}) for name, title, part in blocks if name in COMPARED]


def side_by_side(summary: pd.DataFrame) -> list[Table]:
    """The headline metrics of all models of one data set and target next to one another."""
    models = summary["model"].drop_duplicates().tolist()
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna()]
    names = headlines(own["metric"].drop_duplicates().tolist())
    frame = own[own["metric"].isin(names)]
    if len(models) < 2 or frame.empty:
        return []
    keys = pd.DataFrame(product(names, models), columns=["metric", "model"])
    keys = keys.merge(frame[["metric", "model"]].drop_duplicates())
    note = "Mean [95 % interval]; bold: best of its column; ≈: not distinguishable from the best."
    step = max(1, WIDTH // len(models)) * len(models)
    parts = (keys.iloc[start : start + step].merge(frame) for start in range(0, len(keys), step))
    title = " · ".join(str(summary[name].iloc[0]) for name in ("dataset", "target"))
    return [_table(title, part, note, {}) for part in parts]


def flagged_table(records: pd.DataFrame, blind: Container[str] = ()) -> Table | None:
    """How many pairs of one (dataset, model, target) each explainer was flagged on, by reason."""
    why = records.assign(reason=reasons(records))
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
    note = f"Pairs (of {total}) left out of at least one mean, and of how many metrics; means are over the rest."
    return Table("Flagged pairs", columns, tuple(rows), note)


def left_out_table(records: Mapping[str, pd.DataFrame]) -> Table | None:
    """How many pairs of each run were flagged on any method, by reason; None where none was."""
    flagged = {name: own.assign(reason=reasons(own)) for name, own in records.items()}
    names = sorted({reason for own in flagged.values() for reason in own["reason"].unique()} - {""})
    if not names:
        return None
    rows = []
    for run, own in flagged.items():
        whole = len(own.drop_duplicates(PAIR))
        counts = [len(own[own["reason"] == reason].drop_duplicates(PAIR)) for reason in names]
        rows.append((run, (Cell(str(whole)), *(Cell(str(count)) for count in counts))))
    columns = (Column("pairs"), *(Column(FLAGS.get(name, name)) for name in names))
    note = "Pairs left out of at least one mean of at least one method, by reason; each mean is over the rest."
    return Table("Flagged pairs", columns, tuple(rows), note, head="run")


FLAGS = {
    "zero_range": "full and baseline image score alike",
    "constant_map": "constant map",
    "other_class": "reference of another class",
    "self_pair": "image paired with itself",
    "empty_mask": "empty mask",
    "no_parts": "no visible part",
    "not_matched": "does not find its reference to begin with",
    "not_ahead": "nearer to the negative to begin with",
    "reference_map": "no map of the reference",
    "constant_further_map": "constant map of a changed model or image",
    "nonfinite_map": "map not finite",
    NO_REASON: "value not finite",
}


def _blocks(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Parts of the frame whose metrics stand in one table, each with its group and its title."""
    for title in GROUPS:
        names = [name for name in sort_metrics(frame["metric"].drop_duplicates().tolist()) if group(name) == title]
        count = -(-len(names) // WIDTH)
        for number, chosen in enumerate(np.array_split(names, count) if names else (), 1):  # of like width
            own = f"{title} ({number} of {count})" if count > 1 else title
            yield title, own, pd.DataFrame({"metric": chosen}).merge(frame, on="metric")


def _table(title: str, frame: pd.DataFrame, note: str, chances: Mapping[str, float]) -> Table:
    """Columns in the order of the frame; one for each metric, or metric and model where there are several."""
    blind = frozenset(frame.loc[frame["blind"], "explainer"])
    explainers = sort_explainers(frame["explainer"].drop_duplicates().tolist(), blind)
    keys = frame[["metric", "model"]].drop_duplicates().astype(str)
    columns, cells = [], []
    for metric, model in zip(keys["metric"], keys["model"], strict=True):
        part = frame[(frame["metric"] == metric) & (frame["model"] == model)]
        label, most = words(metric) + arrow(part["higher_is_better"].iloc[0]), int(part["count"].max())
        chance = chances.get(metric, np.nan)
        notes = [
            model if len(set(keys["model"])) > 1 else "",
            f"n = {most}",
            "" if np.isnan(chance) else f"chance {chance:.3f}",
        ]
        columns.append(Column(label, "; ".join(filter(None, notes)), place(metric)[3]))
        rows = {row["explainer"]: row for row in part.to_dict("records")}
        whole = decimals([*part["mean"], *part["low"], *part["high"]])
        costs = metric.startswith("cost_")  # from thousandths to thousands in one column
        digits = {name: decimals([row["mean"]]) if costs else whole for name, row in rows.items()}
        cells.append([_cell(rows.get(name), digits.get(name, whole), most) for name in explainers])
    rows_ = tuple((name, tuple(row)) for name, row in zip(explainers, zip(*cells, strict=True), strict=True))
    return Table(title, tuple(columns), rows_, note, blind)


def _cell(row: Mapping[Any, Any] | None, digits: int, most: int) -> Cell:
    if row is None:
        return Cell(NOTHING, hint="not measured")
    if not row["count"]:
        return Cell("flagged", hint=f"flagged: {row['flagged']}")
    sign = "+" if row.get("signed") else ""
    mean, low, high = (f"{round(row[name], digits) + 0.0:{sign}.{digits}f}" for name in ("mean", "low", "high"))
    interval = f"[{low}, {high}]" if np.isfinite(row["low"]) and low != high else ""
    interval = " ".join(filter(None, [interval, f"(n = {row['count']})" if row["count"] < most else ""]))
    hints = [f"n = {row['count']}", f"flagged: {row['flagged']}" if row["flagged"] else ""]
    hints += [f"Wilcoxon p (Holm) = {row['p_holm']:.2g}" if "p_holm" in row else ""]
    hints += [f"rank-biserial {row['effect']:+.2f}" if "effect" in row else ""]
    hints += ["" if row["clustered"] else "one class alone: the interval resamples pairs"]
    return Cell(mean, interval, bool(row["best"]), bool(row["tied"]), "; ".join(filter(None, hints)))


def _flag_cell(records: pd.DataFrame) -> Cell:
    names = sorted(records["metric"].unique())
    pairs = len(records.drop_duplicates(["query_id", "reference_id"]))
    return Cell(f"{pairs} (of {len(names)} metrics)" if pairs else "0", hint=", ".join(names))
