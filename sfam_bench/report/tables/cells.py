"""The table of a sweep: the state of each cell and the means of the done ones; a partial table says so first."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_text
from sfam_bench.jobs.job import STATES, Job
from sfam_bench.jobs.plan import JobList
from sfam_bench.jobs.status import Status
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import count_decimals
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables import formats
from sfam_bench.report.tables.tables import MARKS, NOTHING, Cell, Column, Table
from sfam_bench.runs.reader import read_run
from sfam_bench.statistics import FACTS, FEW_CLASSES, summarise

MOST = 200  # characters of an error in a table


def write_cells(out: Path, plan: JobList, status: Status) -> tuple[list[str], list[str]]:
    """Write cells.csv and cells.md, a row per cell of the last stage; returns the ids of done cells, and of all.

    A cell whose records cannot be read counts as failed.
    """
    stages: dict[str, list[Job]] = {}
    for job in plan.jobs:
        stages.setdefault(job.command[0], []).append(job)
    found = status.jobs.set_index("job")
    states, why = ({str(job): str(text) for job, text in found[name].items()} for name in ("state", "why"))
    cells = [*stages.values()][-1]
    means, catalogue, broken = _means(out, [job for job in cells if states[job.id] == "done"])
    states |= dict.fromkeys(broken, "failed")
    why |= broken
    (out / "cells.csv").write_text(formats.to_csv(_frame(cells, states, why, means)), encoding="utf-8")
    counts = [(stage, _count(states[job.id] for job in jobs)) for stage, jobs in stages.items()]
    undone = [job.id for job in plan.jobs if states[job.id] != "done"]
    lines = [
        *counts,
        *((f"not done: {name}", ": ".join(filter(None, [states[name], why[name][:MOST]]))) for name in undone),
    ]
    page = formats.to_markdown(f"Sweep {plan.facts['name']}", lines, _tables(cells, states, means, catalogue))
    write_text(out / "cells.md", page)
    return [job.id for job in cells if states[job.id] == "done"], [job.id for job in cells]


def _count(states: Iterable[str]) -> str:
    found = Counter(states)
    return f"{found.total()} cells: {', '.join(f'{found[state]} {state}' for state in STATES if state in found)}"


def _means(out: Path, cells: Sequence[Job]) -> tuple[dict[str, pd.DataFrame], Catalogue, dict[str, str]]:
    """The summary of each cell, without facts of pairs and checks; the metrics; the cells that cannot be read."""
    means, manifests, broken = {}, [], {}
    for job in cells:
        try:
            run = read_run(out / job.id)
            scores = Summed.of(run).run.matrix.select(lambda _, name: name != FACTS)
            means[job.id] = summarise(scores, Catalogue.of(run.manifest).facts)
            manifests.append(run.manifest)
        except UserError as error:
            broken[job.id] = str(error)
    return means, Catalogue.of(*manifests), broken


def _frame(
    cells: Sequence[Job], states: Mapping[str, str], why: Mapping[str, str], means: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """One row a cell: axes, state, error, and mean, low and high of each metric and explainer."""
    rows = []
    for job in cells:
        row = {"cell": job.id, **job.axes, "state": states[job.id], "error": why[job.id]}
        for found in means.get(job.id, pd.DataFrame()).to_dict("records"):
            of = f"{found['metric']} {found['explainer']}"
            row |= {of: found["mean"], f"{of} low": found["low"], f"{of} high": found["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _tables(
    cells: Sequence[Job], states: Mapping[str, str], means: Mapping[str, pd.DataFrame], catalogue: Catalogue
) -> list[Table]:
    """A table of the states, then one for each metric that has a direction: cells down, explainers across."""
    axes = [*cells[0].axes]
    plain = [(job.id, (*(Cell(str(job.axes[axis])) for axis in axes), Cell(states[job.id]))) for job in cells]
    tables = [Table("Cells", tuple(map(Column, [*axes, "state"])), tuple(plain), head="cell")]
    if not means:
        return tables
    whole = pd.concat([table.assign(cell=cell) for cell, table in means.items()], ignore_index=True)
    whole = whole[whole["higher_is_better"].notna()]
    explainers = whole["explainer"].drop_duplicates().tolist()
    for metric in catalogue.sort(whole["metric"].unique()):
        part = whole[whole["metric"] == metric]
        digits = count_decimals([*part["mean"], *part["low"], *part["high"]])
        found = {(row["cell"], row["explainer"]): row for row in part.to_dict("records")}
        rows = [
            (job.id, tuple(_cell(found.get((job.id, name)), digits, states[job.id]) for name in explainers))
            for job in cells
        ]
        marks = MARKS.replace("column", "row")
        note = f"Mean [95 % interval]; {marks}; no marks in rows of fewer than {FEW_CLASSES} classes."
        tables.append(Table(catalogue.title(metric), tuple(map(Column, explainers)), tuple(rows), note, head="cell"))
    return tables


def _cell(row: Mapping[Any, Any] | None, digits: int, state: str) -> Cell:
    if row is None:
        return Cell(NOTHING if state == "done" else state)
    if not row["count"]:
        return Cell("flagged")
    mean, low, high = (f"{row[name] + 0.0:.{digits}f}" for name in ("mean", "low", "high"))
    interval = f"[{low}, {high}]" if pd.notna(row["low"]) and low != high else ""
    return Cell(mean, interval, bool(row["best"]), bool(row["tied"]))
