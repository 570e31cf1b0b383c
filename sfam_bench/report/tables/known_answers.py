"""Tables of known answers: which models use the cause, which maps follow it, which maps give a shortcut away."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import sort_explainers
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table, run_table
from sfam_bench.statistics.detection import detection_rate

AGREEMENT, CHANCE = "causal_agreement", "causal_agreement_chance"
SPLIT_HALF = "causal_agreement_split_half"
BACKGROUND = "background_energy"
CHECKS = (
    "Share of queries whose retrieved class changes when the part is repainted: the least of the causes, and the most "
    "of parts on which no class depends. A model counts if the first is at least one half and more than twice the "
    "second. Split-half r: causal agreement of the effects by one half of the redrawings with those by the other half; "
    "a map equal to the true effects is expected to reach about sqrt(2r / (1 + r)) (column 'true effects')."
)
DETECTS = (
    "AUC with which the share of one map on the background separates the model that uses the background from the clean "
    "one [95 % interval over classes]: 0.5 is chance."
)


def counts(run: Summed) -> bool:
    """Whether the model of a run passed the intervention check."""
    check = run.run.manifest.get("intervention") or {"fails": "not checked"}
    return not check["fails"]


def causal_only(run: Summed) -> Summed:
    """A run without its other metrics, which take most of the time to summarise."""
    return replace(
        run, run=replace(run.run, matrix=run.run.matrix.select(lambda metric, _: metric.startswith("causal_")))
    )


def check_table(runs: Sequence[Summed]) -> Table:
    """The intervention check, retrieval and split-half agreement of each run."""
    rows = []
    for run in runs:
        check, means = run.run.manifest.get("intervention") or {}, run.means
        flips = {part: share for part, share in (check.get("flips") or {}).items() if share is not None}
        causes = [flips[part] for part in check.get("causes", ()) if part in flips]
        known = {*check.get("states", ("crest", "tail")), *check.get("causes", ())}
        others = [share for part, share in flips.items() if part not in known]
        halves = means.loc[means["metric"] == SPLIT_HALF, "mean"].mean()
        cells = (
            Cell(_number((run.run.manifest.get("retrieval") or {}).get("recall_at_1"))),
            Cell(_number(min(causes, default=None))),
            Cell(_number(max(others, default=None))),
            Cell(_number(halves)),
            Cell(_number(reachable(halves))),
            Cell(
                "counts" if counts(run) else "left out",
                hint=str(check.get("fails") or ("" if check else "not checked")),
            ),
        )
        rows.append((run.name, cells))
    labels = ("recall@1", "causes change", "others change", "split-half r", "true effects", "model")
    return Table("Which models use the planted cause?", tuple(map(Column, labels)), tuple(rows), CHECKS, head="run")


def agreement_table(runs: Sequence[Summed]) -> Table:
    """Causal agreement by method, with a column for each run."""
    catalogue = Catalogue.of(*(run.run.manifest for run in runs))
    whole = pd.concat([run.means.assign(model=run.name) for run in runs])
    level = whole[whole["metric"] == CHANCE].groupby("model")["mean"].mean()
    chances = {str(name): float(mean) for name, mean in level.items()}
    return run_table(catalogue.title(AGREEMENT), whole[whole["metric"] == AGREEMENT], chances, catalogue)


def network_table(runs: Sequence[Summed]) -> Table:
    """Causal agreement by method, with a column for each network, in one world and on the same pairs.

    Raises:
        UserError: if the runs differ in their data set or pairs.
    """
    first, *rest = runs
    for run in rest:
        if run.run.manifest["dataset"] != first.run.manifest["dataset"] or _pairs(run) != _pairs(first):
            raise UserError(
                f"the networks of {first.name} and {run.name} were not evaluated on the same pairs of one data set: "
                "evaluate them with the same dataset, pairs and seed"
            )
    table = agreement_table(runs)
    return replace(table, title=f"{table.title}: networks in {first.run.manifest['dataset']}, on the same pairs")


def _pairs(run: Summed) -> set[tuple[str, str]]:
    return {*zip(run.run.pairs["query_id"], run.run.pairs["reference_id"], strict=True)}


def detection_frame(pairs: Mapping[str, tuple[Summed, Summed]]) -> pd.DataFrame:
    """The detection rates of each run with a shortcut and its clean twin, by the name of the run."""
    frames = [
        detection_rate(run.run.matrix, clean.run.matrix, BACKGROUND).assign(run=name)
        for name, (run, clean) in pairs.items()
    ]
    return pd.concat(frames, ignore_index=True)


def detection_table(frame: pd.DataFrame, blind: Sequence[str]) -> Table:
    """Detection rates by method, with a column for each run."""
    runs, found = frame["run"].drop_duplicates().tolist(), frame.set_index(["explainer", "run"])
    rows = []
    for name in sort_explainers(frame["explainer"].drop_duplicates().tolist(), blind):
        rows.append(
            (
                name,
                tuple(
                    _auc_cell(found.loc[(name, run)]) if (name, run) in found.index else Cell(NOTHING) for run in runs
                ),
            )
        )
    notes = [frame[frame["run"] == run].iloc[0] for run in runs]
    columns = tuple(
        Column(run, f"n = {note['count']}; {note['clusters']} classes") for run, note in zip(runs, notes, strict=True)
    )
    return Table("Detection rate of the shortcut ↑", columns, tuple(rows), DETECTS, frozenset(blind))


def _auc_cell(row: pd.Series) -> Cell:
    return Cell(f"{row['auc']:.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]")


def reachable(split_half: float) -> float:
    """The correlation expected of a map that equals the true effects with effects of this split-half correlation.

    By Spearman and Brown's formula for all redrawings; the root of this reliability is the correlation with the truth.
    """
    return float(np.sqrt(max(0.0, 2 * split_half / (1 + split_half)))) if split_half > -1 else np.nan


def _number(value: float | None) -> str:
    return NOTHING if value is None or np.isnan(value) else f"{value:.3f}"
