"""The meta-evaluation of metrics: do they agree, and do they separate the exact decomposition from controls?"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.meta_figures import agreement_matrix, critical_differences
from sfam_bench.report.names import Named, slug, sort_explainers
from sfam_bench.report.page import page
from sfam_bench.report.tables import formats
from sfam_bench.report.tables.tables import NOTHING, WIDTH, Cell, Column, Table, add_remark
from sfam_bench.runs.reader import Run
from sfam_bench.statistics import RUN
from sfam_bench.statistics import worth as meta
from sfam_bench.statistics.agreement import tau_matrix

TITLE = "Meta-evaluation of the metrics"
FILES = ("meta.md", "meta.tex", "meta-*")
TELLS = (
    "Share of pairs on which the metric ranks the exact decomposition above the control [95 % interval over classes], "
    "ties count half; separates: above one half, p ≤ 0.05 by sign flips of classes after Holm over all rows and "
    "columns of this table. Split-half reliability: mean Kendall's tau of the orders of explainers that two halves of "
    "the classes give, which no agreement with another metric can be expected to exceed."
)
RANKS = (
    "Mean rank, 1 is best, over blocks that are means of classes, since pairs of a class are alike. The marks are of "
    "the tables of means: bold, the best mean; ≈, not significantly worse by the test of those tables. The best mean "
    "need not have the best mean rank. p and CD (Friedman, Nemenyi at 5 %) test the ranks, for the diagrams below."
)
AGREES = (
    "Kendall's W (1: one order, 0: none; its expectation for unrelated raters is 1 / raters), Krippendorff's ordinal "
    "alpha of the ranks (0: chance) and Kendall's tau between raters, mean and least; in brackets without the "
    "explainers that ignore the reference, since any metric that puts chance last agrees on that. Raters of fewer than "
    "half of the explainers are left out."
)


PREDICTS = (
    "Kendall's tau of the orders of explainers by the metric and by causal agreement, whose effects of parts are "
    "measured by redrawing them: mean over the runs that have both (number of runs), least and greatest; in the second "
    "column without the explainers that ignore the reference, which any metric may put last."
)


@dataclass(frozen=True)
class Measured:
    """The meta-evaluation frames of one run, and its explainers that ignore the reference."""

    tells: pd.DataFrame
    ranks: pd.DataFrame
    blind: Container[str]


def measure_worth(run: Run) -> Measured:
    """The meta-evaluation of the metrics of a run that measure the quality of maps."""
    catalogue = Catalogue.of(run.manifest)
    chosen = {name: catalogue.facts[name] for name in filter(catalogue.is_compared, catalogue.sort(catalogue.facts))}
    order = {name: place for place, name in enumerate(chosen)}
    found = [frame(run.matrix, chosen) for frame in (meta.separation, meta.ranks)]
    tells, ranks = (frame.sort_values("metric", key=lambda names: names.map(order), kind="stable") for frame in found)
    return Measured(tells, ranks, run.blind)


@dataclass(frozen=True)
class Weighed:
    """The meta-evaluation of several runs: tables, tables of mean ranks, and the frames behind them."""

    tables: Sequence[Table]
    rankings: Sequence[Table]
    frames: Mapping[str, pd.DataFrame]  # tells, ranks, agreement
    scores: pd.DataFrame  # of meta.ratings
    blind: Container[str]


def weigh_metrics(runs: Sequence[Measured], summary: pd.DataFrame, catalogue: Catalogue) -> Weighed | None:
    """The meta-evaluation over all runs, whose means are in `summary`; None without metrics."""
    tells, ranks = (
        pd.concat(frames, ignore_index=True) for frames in zip(*((r.tells, r.ranks) for r in runs), strict=True)
    )
    blind = {name for run in runs for name in ranks["explainer"].unique() if name in run.blind}
    scores = rate_explainers(summary, catalogue)
    if scores.empty:
        return None
    agreement = meta.agreement(scores, blind)
    predicted = predict_cause(scores, catalogue, blind)
    tables = [
        *([prediction_table(predicted, catalogue)] if len(predicted) else []),
        *(_separation_table(" · ".join(keys), part, ranks, catalogue) for keys, part in _runs(tells)),
        *([_agreement_table(agreement)] if len(agreement) else []),
    ]
    rankings = [t for _, part in _runs(ranks) for t in _rank_tables(part, summary, blind, catalogue)]
    frames = {"tells": tells, "ranks": ranks, "agreement": agreement}
    return Weighed(tables, rankings, {**frames, **({"predicts": predicted} if len(predicted) else {})}, scores, blind)


def rate_explainers(summary: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """meta.ratings of the metrics that measure the quality of maps."""
    compared = filter(catalogue.is_compared, catalogue.sort(summary["metric"].unique()))
    return meta.ratings(summary, {name: catalogue.facts[name] for name in compared})


def predict_cause(scores: pd.DataFrame, catalogue: Catalogue, blind: Container[str]) -> pd.DataFrame:
    """meta.prediction of causal agreement; empty where no run has it."""
    causes = catalogue.first((meta.CAUSE,), scores.index.unique("metric"))
    return pd.concat([pd.DataFrame(columns=meta.PREDICTION), *(meta.prediction(scores, c, blind) for c in causes)])


def write_meta(
    runs: Sequence[Measured],
    summary: pd.DataFrame,
    catalogue: Catalogue,
    out: Path,
    remark: str = "",
    named: Named = slug,
) -> page.Section | None:
    """Write tables, each with the remark, and figures over all runs into `out`; returns their part of the page.

    None without metrics.
    """
    weighed = weigh_metrics(runs, summary, catalogue)
    if weighed is None:
        return None
    tables = add_remark([*weighed.tables, *weighed.rankings], remark)
    pictures, taus = _figures(weighed.scores, weighed.frames["ranks"], catalogue, weighed.blind, out, named)
    for name, frame in {**weighed.frames, "tau": taus}.items():
        (out / f"meta-{name}.csv").write_text(formats.to_csv(frame), encoding="utf-8")
    (out / "meta.md").write_text(formats.to_markdown(TITLE, [], tables), encoding="utf-8")
    (out / "meta.tex").write_text(formats.to_latex(TITLE, [], tables), encoding="utf-8")
    return page.Section(TITLE, "meta", [], tables, [], None, pictures)


def prediction_table(predicted: pd.DataFrame, catalogue: Catalogue) -> Table:
    """The metrics in descending order of how well they predict the order of explainers by measured cause."""
    rated = predicted[predicted["tau"].notna()]
    means = rated.groupby("metric")["tau_without_blind"].mean().sort_values(ascending=False)
    rows = []
    for metric in map(str, means.index):
        own = rated[rated["metric"] == metric]
        rows.append((catalogue.title(metric), tuple(_tau_cell(own[name]) for name in ("tau", "tau_without_blind"))))
    columns = (Column("tau, all explainers"), Column("tau, pair-dependent explainers"))
    title = "Which metrics predict the measured cause?"
    return Table(title, columns, tuple(rows), PREDICTS, head="metric")


def _tau_cell(taus: pd.Series) -> Cell:
    found = taus.astype(float).dropna()
    if found.empty:
        return Cell(NOTHING, hint="fewer than three explainers")
    spread = f" [{found.min():.2f}, {found.max():.2f}]" if len(found) > 1 else ""
    return Cell(f"{found.mean():.2f}", f"({len(found)}){spread}")


def _runs(frame: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    return [(tuple(map(str, keys)), part) for keys, part in frame.groupby(RUN, sort=False)]


def _separation_table(title: str, tells: pd.DataFrame, ranks: pd.DataFrame, catalogue: Catalogue) -> Table:
    controls = [control for control in meta.CONTROLS if control in set(tells["control"])]
    found = {(row["metric"], row["control"]): row for row in tells.to_dict("records")}
    own = ranks[(ranks[RUN] == tells[RUN].iloc[0]).all(axis=1)]
    halves = own.drop_duplicates("metric").set_index("metric")["halves"].to_dict()
    metrics = tells["metric"].drop_duplicates().tolist()
    rows = [
        (
            catalogue.title(metric),
            (
                *(_separation_cell(found.get((metric, control))) for control in controls),
                Cell(_number(halves.get(metric))),
            ),
        )
        for metric in metrics
    ]
    columns = (*(Column(f"exact above {control}") for control in controls), Column("split-half reliability", "tau"))
    return Table(
        f"{title}: which metrics separate the exact decomposition from a control?",
        columns,
        tuple(rows),
        TELLS,
        head="metric",
    )


def _separation_cell(row: Mapping[Any, Any] | None) -> Cell:
    if row is None or not row["count"]:
        return Cell(NOTHING, hint="not measured")
    interval = f"{row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    hint = f"n = {row['count']} pairs, {row['clusters']} classes, p (Holm) = {row['p_holm']:.2g}"
    return Cell("separates" if row["tells"] else "does not separate", interval, bool(row["tells"]), hint=hint)


def _agreement_table(agreement: pd.DataFrame) -> Table:
    keys = ["over", "within"]
    with_, without = (agreement[agreement["controls"] == which].set_index(keys) for which in (True, False))
    rows, alike = [], without.loc[with_.index].to_dict("records")
    for (over, within), row, other in zip(with_.index, with_.to_dict("records"), alike, strict=True):
        cells = [Cell(str(row["raters"])), Cell(str(row["explainers"]), f"({other['explainers']})")]
        cells += [Cell(_number(row[name]), f"({_number(other[name])})") for name in ("w", "alpha", "tau", "least_tau")]
        rows.append((f"{over} ({within})", tuple(cells)))
    labels = ("raters", "explainers", "W", "alpha", "tau", "least tau")
    return Table(
        "Agreement of metrics on the ranking of explainers",
        tuple(map(Column, labels)),
        tuple(rows),
        AGREES,
        head="agreement over",
    )


def _number(value: float | None) -> str:
    return NOTHING if value is None or np.isnan(value) else f"{value:.2f}"


def _rank_tables(
    ranks: pd.DataFrame, summary: pd.DataFrame, blind: Container[str], catalogue: Catalogue
) -> list[Table]:
    """Mean ranks of the explainers of one run, a column for each metric, with the marks of the means in `summary`."""
    run = ranks[RUN].iloc[0]
    means = summary[(summary[RUN] == run).all(axis=1)].set_index(["metric", "explainer"])
    best, tied = ({*means.index[means[mark].astype(bool)]} for mark in ("best", "tied"))
    metrics = ranks["metric"].drop_duplicates().tolist()
    explainers = sort_explainers(ranks["explainer"].drop_duplicates().tolist(), blind)
    places = ranks.set_index(["metric", "explainer"])["rank"].to_dict()
    tables, count = [], -(-len(metrics) // WIDTH)
    for number, chosen in enumerate(np.array_split(metrics, count), 1):
        columns, cells = [], []
        for metric in map(str, chosen):
            first = ranks[ranks["metric"] == metric].iloc[0]
            note = f"{first['blocks']} {first['of']}; CD {first['critical_difference']:.1f}; p {first['p']:.1g}"
            columns.append(Column(catalogue.title(metric), note, "p is that of Friedman's test"))
            keys = [(metric, name) for name in explainers]
            cells.append([_rank_cell(places.get(key), key in best, key in tied) for key in keys])
        rows = tuple((name, tuple(row)) for name, row in zip(explainers, zip(*cells, strict=True), strict=True))
        own_title = f"{' · '.join(map(str, run))}: mean ranks" + (f" ({number} of {count})" if count > 1 else "")
        tables.append(Table(own_title, tuple(columns), rows, RANKS, frozenset(n for n in explainers if n in blind)))
    return tables


def _rank_cell(rank: float | None, best: bool, tied: bool) -> Cell:
    return Cell(NOTHING, hint="flagged too often to be ranked") if rank is None else Cell(f"{rank:.1f}", "", best, tied)


def _figures(
    scores: pd.DataFrame,
    ranks: pd.DataFrame,
    catalogue: Catalogue,
    blind: Container[str],
    out: Path,
    named: Named,
) -> tuple[list[tuple[Path, str]], pd.DataFrame]:
    """Pictures with their captions, and the taus of any two metrics of one (dataset, model, target)."""
    pictures: list[tuple[Path, str]] = []
    rows: list[tuple[Any, ...]] = []
    order = {name: place for place, name in enumerate(catalogue.sort(scores.index.unique("metric")))}
    for keys, part in scores.groupby(level=RUN, sort=False):
        own = part.set_axis(part.index.get_level_values("metric"), axis=0).dropna(axis=1, how="all")
        own = own.sort_index(key=lambda names: names.map(order))
        seeing = own[[name for name in own.columns if name not in blind]]
        names = own.index.tolist()
        taus = tau_matrix(own.to_numpy(dtype=float)), tau_matrix(seeing.to_numpy(dtype=float))
        for one, other in zip(*np.triu_indices(len(own), 1), strict=True):
            pair = (names[one], names[other])
            rows.append((*keys, *pair, *(tau[one, other] for tau in taus)))
        if len(own) > 1:
            drawn = agreement_matrix([*map(catalogue.label, names)], taus, " · ".join(map(str, keys)), out, named)
            pictures.append((drawn[0], "Kendall's tau of the rankings by any two metrics."))
        mine = ranks[(ranks[RUN] == [*keys]).all(axis=1)]
        shown = mine[mine["metric"].isin(catalogue.headlines(mine["metric"].unique()))]
        caption = "Mean ranks; a bar joins explainers not separated by Nemenyi's test at 5 %."
        pictures += [(path, caption) for path in critical_differences(shown, catalogue, blind, out, named)[:1]]
    return pictures, pd.DataFrame(rows, columns=[*RUN, "metric", "other", "tau", "tau_without_blind"])
