"""From tidy summaries to tables that fit a page: metrics that see the pair first, the others after them."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context
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
from sfam_bench.statistics import AREA_ERROR, FACTS, NO_REASON, reasons
from sfam_bench.store import Run

WIDTH = 5  # columns of a table that still fit a page
NOTHING = "--"
FULL = 225  # points of metrics.perturbation.FULL, which cannot be imported without torch


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
    """Explainers down, metrics across; `blind` are those that cannot see why the pair is alike."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""
    blind: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Report:
    """The means of all runs, and by its title the protocol of each (dataset, model, target)."""

    summary: pd.DataFrame
    protocols: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def mark(frame: pd.DataFrame, blind: Container[str]) -> pd.DataFrame:
    """Say of each row whether its explainer is blind to the pair."""
    return frame.assign(blind=[name in blind for name in frame["explainer"]])


def metric_tables(summary: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The tables of one (dataset, model, target)."""
    names = summary["metric"].drop_duplicates().tolist()
    levels = {name: chance_of(name, metrics) for name in names}
    chances = {name: float(summary.loc[summary["metric"] == level, "mean"].mean()) for name, level in levels.items()}
    own = summary[(summary["explainer"] != FACTS) & ~summary["metric"].isin(levels.values())]
    note = "Mean [95 % interval]; bold: best; ≈: not distinguishable from the best over the same pairs."
    return [_table(title, part, note, chances) for _, title, part in _blocks(own)]


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


FLAGS = {
    "zero_range": "full and baseline image score alike",
    "constant_map": "constant map",
    "self_pair": "image paired with itself",
    "empty_mask": "empty mask",
    "nonfinite_map": "map not finite",
    NO_REASON: "value not finite",
}


def protocol(run: Run, summary: pd.DataFrame, errors: np.ndarray) -> list[tuple[str, str]]:
    """What was measured on what, and how truly, one (name, text) a line; `errors` are those of the areas."""
    facts = run.manifest
    split, found, kinds = facts.get("split") or {}, facts.get("retrieval") or {}, run.pairs["kind"].value_counts()
    of_pair = summary[summary["explainer"] == FACTS]
    counts = facts.get("image_counts") or {}
    of_gallery = {"queries" if name == "count" else words(name): _fact(value) for name, value in found.items()}
    code = re.sub(r"(?<=^\w{10})\w+", "", facts.get("git", "unknown"))  # short, but still -dirty
    left_out = [name for name in facts.get("skipped") or [] if not name.endswith(AREA_ERROR)]  # those were not drawn
    lines = {
        "Data set": facts.get("dataset"),
        "Model": facts.get("model"),
        "Weights": "as built, without a checkpoint" if "checkpoint" in facts and not facts["checkpoint"] else "",
        "Target": ", ".join(filter(None, [facts.get("target"), facts.get("similarity")])),
        "Split": " ".join(filter(None, [split.get("name"), f"(hash {split['hash']})" if split.get("hash") else ""])),
        "Images": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "Retrieval": ", ".join(f"{name} {value}" for name, value in of_gallery.items()),
        "Pairs": f"{len(run.pairs)}: " + ", ".join(f"{count} {words(str(kind))}" for kind, count in kinds.items()),
        "Means over pairs": ", ".join(f"{row.metric} {_fact(row.mean)}" for row in of_pair.itertuples()),
        "Steps": _steps(facts.get("steps") or {}),
        "Curves": _curves(errors) if summary["metric"].str.startswith(("deletion", "insertion")).any() else "",
        "Passes": _passes(facts.get("passes") or {}),
        "Left out": "; ".join(
            [*left_out, *(f"{name}: {why}" for name, why in (facts.get("unsupported") or {}).items())]
        ),
        "Code": f"git {code}, config {facts.get('config_hash')}, seed {facts.get('seed')}",
        "Made": facts.get("created"),
    }
    return [(name, str(text)) for name, text in lines.items() if text]


def _steps(rule: Mapping[str, Any]) -> str:
    """Where curves are sampled: Midpoint, intervals 20."""
    name = str(rule.get("_target_", "")).rpartition(".")[2]
    return ", ".join([name, *(f"{key} {value}" for key, value in rule.items() if key != "_target_")]) if name else ""


def _curves(errors: np.ndarray) -> str:
    """What the areas are worth: the errors observed, or that none was."""
    if not len(errors):
        return f"none was drawn to be taken in full ({FULL} points) too: the error of the area was not measured"
    median, most, worst = np.quantile(errors, [0.5, 0.95, 1])
    return (
        f"{len(errors)} drawn at random and taken in full ({FULL} points) too: "
        f"area differs by median {median:.2g}, 95 % {most:.2g}, at most {_ceiling(worst, 2):.2g}"
    )


def _passes(facts: Mapping[str, Any]) -> str:
    """How the model was asked, and how far its scores may be off by that."""
    mode, moved = facts.get("mode"), facts.get("score_differences", {}).get(facts.get("mode"))
    within = "" if moved is None else f"scores within {_ceiling(moved, 1):.1g} of float32 eager"
    return ", ".join(filter(None, [mode, f"batch {facts['batch']}" if "batch" in facts else "", within]))


def _ceiling(value: float, digits: int) -> float:
    """The value rounded up, so that what is said to bound it does."""
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(str(float(value))))


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
        digits = decimals([*part["mean"], *part["low"], *part["high"]])
        rows = {row["explainer"]: row for row in part.to_dict("records")}
        cells.append([_cell(rows.get(explainer), digits, most) for explainer in explainers])
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
    hints += ["" if row["clustered"] else "one class alone: the interval resamples pairs"]
    return Cell(mean, interval, bool(row["best"]), bool(row["tied"]), "; ".join(filter(None, hints)))


def _flag_cell(records: pd.DataFrame) -> Cell:
    names = sorted(records["metric"].unique())
    pairs = len(records.drop_duplicates(["query_id", "reference_id"]))
    return Cell(f"{pairs} (of {len(names)} metrics)" if pairs else "0", hint=", ".join(names))


def _fact(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
