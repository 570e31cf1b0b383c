"""Tables of known answers: which models use the cause, which maps follow it, which maps give a shortcut away."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import sort_explainers, to_prose
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table, run_table
from sfam_bench.statistics import LEVEL
from sfam_bench.statistics.detection import detection_rate
from sfam_bench.statistics.intervals import clustered_intervals

AGREEMENT, CEILING, CHANCE = "causal_agreement", "causal_agreement_ceiling", "causal_agreement_chance"
BACKGROUND = "background_energy"
CHECKS = (
    "Share of queries whose retrieved class changes when the part is repainted: the least of the causes, and the most "
    "of parts on which no class depends. A model counts if the first is at least one half and more than twice the "
    "second. Ceiling: causal agreement of the effects by one half of the redrawings with those by the other half."
)
DETECTS = (
    "AUC with which the share of one map on the background tells the model that uses the background from the clean one "
    "[95 % interval over classes]: 0.5 is chance."
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
    """The intervention check, retrieval and ceiling of each run."""
    rows = []
    for run in runs:
        check, means = run.run.manifest.get("intervention") or {}, run.means
        flips = {part: share for part, share in (check.get("flips") or {}).items() if share is not None}
        causes = [flips[part] for part in check.get("causes", ()) if part in flips]
        known = {*check.get("states", ("crest", "tail")), *check.get("causes", ())}
        others = [share for part, share in flips.items() if part not in known]
        ceiling = means.loc[means["metric"] == CEILING, "mean"]
        cells = (
            Cell(_number((run.run.manifest.get("retrieval") or {}).get("recall_at_1"))),
            Cell(_number(min(causes, default=None))),
            Cell(_number(max(others, default=None))),
            Cell(_number(ceiling.mean() if len(ceiling) else None)),
            Cell(
                "counts" if counts(run) else "left out",
                hint=str(check.get("fails") or ("" if check else "not checked")),
            ),
        )
        rows.append((run.name, cells))
    labels = ("recall@1", "causes change", "others change", "ceiling", "model")
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


def difference_frame(runs: Sequence[Summed], compared: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Paired differences in causal agreement of each [method, other method] in each run, over the pairs of both.

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
        if all((AGREEMENT, explainer) in run.run.matrix.entries for explainer in pair)
    ]
    if absent := [pair for pair in compared if all(pair != own for *_, own in found)]:
        raise UserError(f"no run has both {' and '.join(absent[0])}: name two methods that one of the runs has")
    rows = []
    for run, kind, own, (explainer, to) in found:
        matrix = run.run.matrix
        difference = matrix.block([(AGREEMENT, explainer)]) - matrix.block([(AGREEMENT, to)])
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


def difference_table(frame: pd.DataFrame) -> Table:
    """The differences of `difference_frame`, a row for two methods, a column for a run or kind."""
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
    return Table("Differences in causal agreement", tuple(labels), tuple(rows), note, head="explainers")


def _difference_cell(row: pd.Series) -> Cell:
    sure = bool(row["low"] > 0 or row["high"] < 0)
    return Cell(f"{row['difference']:+.3f}", f"[{row['low']:.3f}, {row['high']:.3f}]", best=sure)


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


def _number(value: float | None) -> str:
    return NOTHING if value is None or np.isnan(value) else f"{value:.3f}"
