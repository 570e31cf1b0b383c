"""From tidy summaries to tables that fit a page: metrics that depend on the pair first, the others after them."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import GROUPS
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import count_decimals, sort_explainers
from sfam_bench.statistics import FACTS, FEW_CLASSES, LEVEL, NOT_COMPARED, RUN, holm

MARKS = (
    "bold: best; ≈: not significantly worse than the best (all methods compared at once over the pairs that they "
    "share, sign flips of classes, family-wise 5 % a column)"
)
MEANS = f"Mean [95 % interval]; {MARKS}."
WIDTH = 5  # columns of a table that still fit a page
NOTHING = "--"


@dataclass(frozen=True)
class Cell:
    """A number with its interval as a string, and its marks."""

    text: str
    interval: str = ""
    best: bool = False
    tied: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """The header of a column."""

    label: str
    note: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table: explainers (or `head`) are rows, metrics columns; `blind` lists explainers blind to the pair."""

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
    catalogue: Catalogue
    protocols: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def mark_blind(frame: pd.DataFrame, blind: Container[str]) -> pd.DataFrame:
    """Add the column `blind`: whether the explainer of a row is blind to the pair."""
    return frame.assign(blind=[name in blind for name in frame["explainer"]])


def add_remark(tables: Sequence[Table], remark: str) -> list[Table]:
    """The tables, each with this remark."""
    return [replace(table, note=" ".join(filter(None, [table.note, remark]))) for table in tables]


def metric_tables(summary: pd.DataFrame, catalogue: Catalogue, head: str = "") -> list[Table]:
    """The tables of one (dataset, model, target); `head` is the start of their titles."""
    names = summary["metric"].drop_duplicates().tolist()
    levels = {name: catalogue.chance(name) for name in names}
    chances = {name: float(summary.loc[summary["metric"] == level, "mean"].mean()) for name, level in levels.items()}
    own = summary[(summary["explainer"] != FACTS) & ~summary["metric"].isin(levels.values())]
    blocks = [(": ".join(filter(None, [head, title])), part) for _, title, part in _blocks(own, catalogue)]
    return [_table(title, part, MEANS, chances, catalogue) for title, part in blocks]


def run_table(title: str, summary: pd.DataFrame, chances: Mapping[str, float], catalogue: Catalogue) -> Table:
    """One metric, a column for each model; `chances` are its chance levels by model."""
    whole = _table(title, summary, MEANS, {}, catalogue)
    models = summary["model"].drop_duplicates().astype(str).tolist()
    levels = [f"chance {chances[model]:.3f}" if model in chances else "" for model in models]
    counts = [_counts(summary[summary["model"] == model]) for model in models]
    heads = zip(models, counts, levels, strict=True)
    columns = tuple(Column(model, "; ".join(filter(None, notes))) for model, *notes in heads)
    return replace(whole, columns=columns)


def adjust_differences(differences: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Paired differences of the metrics that have a direction, with `table`, the title of their table,
    and `p_holm`, adjusted over all comparisons of that table.
    """
    directions = differences["metric"].map(catalogue.direction)
    frame = differences.assign(higher_is_better=directions.astype("boolean"))
    frame = frame[frame["higher_is_better"].notna()]
    parts = [
        part.assign(table=title, p_holm=holm(part["p"].to_numpy()))
        for _, run in frame.groupby(RUN, sort=False)
        for _, title, part in _blocks(run, catalogue)
    ]
    return pd.concat(parts, ignore_index=True) if parts else frame.assign(table="", p_holm=np.nan)


def difference_tables(differences: pd.DataFrame, catalogue: Catalogue) -> list[Table]:
    """The difference tables of one (dataset, model, target), for metrics of map quality."""
    frame = differences.assign(**NOT_COMPARED, mean=differences["difference"], flagged="", signed=True)
    ahead = (frame["mean"] > 0).where(frame["higher_is_better"].astype(bool), frame["mean"] < 0)
    frame["best"] = ahead & (frame["p_holm"] <= LEVEL)
    tables = []
    for title, part in frame.groupby("table", sort=False):
        if catalogue.is_compared(part["metric"].iloc[0]):
            to = part["to"].iloc[0]
            note = (
                f"Explainer minus {to} on the same pairs [95 % interval, not corrected]; bold: better than {to}, "
                f"p <= {LEVEL} by sign flips of classes with Holm's correction for the {part['p'].notna().sum()} "
                "comparisons shown."
            )
            tables.append(_table(f"{title}: difference to {to}", part, note, {}, catalogue))
    return tables


def corrected_table(title: str, differences: pd.DataFrame, catalogue: Catalogue) -> Table:
    """Paired differences of one run (statistics.paired_difference, corrected); bold: better than what they are to."""
    better = differences["metric"].map(catalogue.direction)
    ahead = (differences["low"] > 0) & better.eq(True) | (differences["high"] < 0) & better.eq(
        False
    )  # of None, neither
    shown: dict[str, Any] = {**NOT_COMPARED, "best": ahead, "higher_is_better": better, "flagged": "", "signed": True}
    frame = differences.assign(**shown, mean=differences["difference"])
    to, count = frame["to"].iloc[0], frame["low"].notna().sum()
    note = (
        f"Explainer minus {to} on the same pairs [interval by Student's t over classes; with Bonferroni's correction "
        f"for the {count} comparisons shown, all hold together with 95 %]; bold: better than {to}."
    )
    return _table(title, frame, note, {}, catalogue)


def compare_models(summary: pd.DataFrame, catalogue: Catalogue) -> list[Table]:
    """The headline metrics of all models of one data set and target, side by side."""
    models = summary["model"].drop_duplicates().tolist()
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna()]
    names = catalogue.headlines(own["metric"].unique())
    frame = own[own["metric"].isin(names)]
    if len(models) < 2 or frame.empty:
        return []
    keys = pd.DataFrame(product(names, models), columns=["metric", "model"])
    keys = keys.merge(frame[["metric", "model"]].drop_duplicates())
    step = max(1, WIDTH // len(models)) * len(models)
    parts = (keys.iloc[start : start + step].merge(frame) for start in range(0, len(keys), step))
    title = " · ".join(str(summary[name].iloc[0]) for name in ("dataset", "target"))
    return [_table(title, part, MEANS, {}, catalogue) for part in parts]


def _blocks(frame: pd.DataFrame, catalogue: Catalogue) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The parts of the frame that form one table each, with group and title."""
    for title in GROUPS:
        names = [name for name in catalogue.sort(frame["metric"].unique()) if catalogue.group(name) == title]
        count = -(-len(names) // WIDTH)
        for number, chosen in enumerate(np.array_split(names, count) if names else (), 1):  # of like width
            own = f"{title} ({number} of {count})" if count > 1 else title
            yield title, own, pd.DataFrame({"metric": chosen}).merge(frame, on="metric")


def _table(title: str, frame: pd.DataFrame, note: str, chances: Mapping[str, float], catalogue: Catalogue) -> Table:
    """Columns in the order of the frame; one for each metric, or metric and model where there are several."""
    blind = frozenset(frame.loc[frame["blind"], "explainer"])
    explainers = sort_explainers(frame["explainer"].drop_duplicates().tolist(), blind)
    keys = frame[["metric", "model"]].drop_duplicates().astype(str)
    columns, cells = [], []
    for metric, model in zip(keys["metric"], keys["model"], strict=True):
        part = frame[(frame["metric"] == metric) & (frame["model"] == model)]
        most = int(part["count"].max())
        chance = chances.get(metric, np.nan)
        notes = [
            model if len(set(keys["model"])) > 1 else "",
            _counts(part),
            "" if np.isnan(chance) else f"chance {chance:.3f}",
        ]
        columns.append(Column(catalogue.title(metric), "; ".join(filter(None, notes)), catalogue.meaning(metric)))
        rows = {row["explainer"]: row for row in part.to_dict("records")}
        whole = count_decimals([*part["mean"], *part["low"], *part["high"]])
        costs = catalogue.group(metric) == "Cost"  # from thousandths to thousands in one column
        digits = {name: count_decimals([row["mean"]]) if costs else whole for name, row in rows.items()}
        cells.append([_cell(rows.get(name), digits.get(name, whole), most) for name in explainers])
    rows_ = tuple((name, tuple(row)) for name, row in zip(explainers, zip(*cells, strict=True), strict=True))
    return Table(title, tuple(columns), rows_, note, blind)


def _counts(part: pd.DataFrame) -> str:
    """The numbers of pairs and classes of a column, and those behind its marks if they differ."""
    most, classes = int(part["count"].max()), int(part["clusters"].max())
    compared = part["compared"].astype(bool)
    shared, shared_classes = int(part["shared"].max()), int(part["shared_classes"].max())
    marked = shared_classes if compared.any() else classes
    absent = part.loc[~compared & (part["count"] > 0), "explainer"].tolist() if compared.any() else []
    notes = [
        f"n = {most}",
        f"{classes} class{'es' if classes > 1 else ''}" if classes else "",
        f"marks: {shared} shared pairs, {shared_classes} classes" if compared.any() and shared < most else "",
        f"not compared, too few pairs: {', '.join(map(str, absent))}" if absent else "",
        f"no marks: fewer than {FEW_CLASSES} classes"
        if classes and marked < FEW_CLASSES and part["higher_is_better"].notna().all()
        else "",
    ]
    return "; ".join(filter(None, notes))


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
    hints += [f"p to the best (adjusted) = {row['p_best']:.2g}" if np.isfinite(row["p_best"]) else ""]
    hints += [f"p (Holm) = {row['p_holm']:.2g}" if "p_holm" in row else ""]
    hints += [f"rank-biserial {row['effect']:+.2f}" if "effect" in row else ""]
    hints += ["" if row["clustered"] else "a single class: the interval takes pairs as independent"]
    hints += ["all values are equal" if low == high and row["count"] > 1 else ""]
    return Cell(mean, interval, bool(row["best"]), bool(row["tied"]), "; ".join(filter(None, hints)))
