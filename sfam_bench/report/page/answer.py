"""What a run found, in a few sentences: which method is best, by what, how sure, where it fails, what was left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import SIGNED
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.means import draw_means, panel
from sfam_bench.report.figures.style import SCREEN, save
from sfam_bench.report.names import Named, join_names, slug, sort_explainers
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables.protocols import describe_left_out
from sfam_bench.statistics import FACTS, FEW_CLASSES

FEWEST = 4  # names that a sentence lists before it counts


@dataclass(frozen=True)
class Finding:
    """Which method is best by one metric, in a sentence, and what that metric measures."""

    text: str
    meaning: str


@dataclass(frozen=True)
class Answer:
    """The summary of one (dataset, model, target).

    compared: what was compared, on what.
    overall: by how many headline metrics each method is best, or not significantly worse; empty for fewer than two.
    findings: one for each headline metric.
    failures: on how many pairs methods are no better than chance; empty without a metric whose zero is chance.
    left_out: methods and metrics without values, and why; empty without any.
    """

    compared: str
    overall: str
    findings: Sequence[Finding]
    failures: str
    left_out: str


def describe_findings(summed: Summed) -> Answer:
    """The answer of a run from its means; all strings are plain text."""
    run, catalogue = summed.run, summed.catalogue
    means = summed.means[summed.means["explainer"] != FACTS]
    headlines = catalogue.headlines(means["metric"].unique())
    names = means.drop_duplicates("explainer").set_index("explainer")["blind"].astype(bool)
    verb = "ignores" if names.sum() == 1 else "ignore"
    blind = f" ({_few([*names.index[names]])} {verb} the reference)" if names.any() else ""
    dataset, model, target = run.matrix.run
    classes = len(pd.unique(run.matrix.clusters))
    compared = (
        f"{len(names)} methods{blind} on {len(run.matrix.pairs)} pairs of {classes} classes of {dataset}; "
        f"model {model}; target: {target.replace('_', ' ')}."
    )
    shown = means[means["metric"].isin(headlines)]
    sentences = {metric: _finding(means[means["metric"] == metric], metric, catalogue) for metric in headlines}
    findings = [Finding(text, catalogue.meaning(metric)) for metric, text in sentences.items() if text]
    return Answer(compared, _overall(shown), findings, _failures(summed), describe_left_out(run.manifest))


def draw_answer(summed: Summed, out: Path, named: Named = slug) -> list[Path]:
    """Draw the means of the headline metrics with 95 % intervals, as PNG and SVG in `out`."""
    means = summed.means
    headlines = summed.catalogue.headlines(means.loc[means["explainer"] != FACTS, "metric"].unique())
    panels = [each for metric in headlines if len((each := panel(means, metric, summed.catalogue)).means)]
    if not panels:
        return []
    columns = min(len(panels), 2)
    return save(draw_means(panels, columns, 1.6 + 2.3 * columns), out, named("answer", *summed.run.matrix.run), SCREEN)


def _overall(means: pd.DataFrame) -> str:
    """By how many metrics each method that depends on the reference is best, or not significantly worse."""
    tested = means.loc[means["best"], "metric"].nunique()
    if tested < 2:
        return ""
    marked = (means["best"] | means["tied"]).groupby(means["explainer"], sort=False).sum()
    methods = means[~means["blind"].astype(bool)]["explainer"].unique()
    by_count: dict[int, list[str]] = {}
    for name in methods:
        by_count.setdefault(int(marked[name]), []).append(name)
    counts = sorted(by_count, reverse=True)
    of_all = [f" of the {tested} metrics", *[""] * len(counts)]
    texts = [f"by {count or 'none'}{of}: {_few(by_count[count])}" for count, of in zip(counts, of_all, strict=False)]
    return f"Best or not significantly worse {'; '.join(texts)}."


def _finding(means: pd.DataFrame, metric: str, catalogue: Catalogue) -> str:
    """Which method leads by one metric, and which are not told from it; empty if no pair counts."""
    direction, means = catalogue.direction(metric), means[means["count"] > 0]
    if direction is None or means.empty:
        return ""
    if not means["best"].any():
        ranked = means.sort_values("mean", ascending=not direction)
        first = ranked.iloc[0]
        why = "no test" if first["clusters"] >= FEW_CLASSES else f"no test with fewer than {FEW_CLASSES} classes"
        blind = ranked[ranked["blind"].astype(bool) & (ranked["explainer"] != first["explainer"])]
        control = "".join(
            f" {row.explainer}, which ignores the reference, has {row.mean:.3f}." for row in blind.head(1).itertuples()
        )
        return f"{catalogue.title(metric)}: {_leader(first)} has the best mean; {why}.{control}"
    best, tied = means[means["best"]].iloc[0], means.loc[means["tied"], "explainer"].tolist()
    rivals = f"not significantly worse: {_few(tied)}" if tied else "all others are significantly worse"
    warning = (
        " A method that ignores the reference is among them, so this metric does not show that a map explains the pair."
    )
    unseeing = means.loc[means["best"] | means["tied"], "blind"].astype(bool).any()
    return f"{catalogue.title(metric)}: {_leader(best)} is best; {rivals}.{warning if unseeing else ''}"


def _leader(row: Any) -> str:
    return f"{row['explainer']} ({row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n = {row['count']:.0f})"


def _few(names: Sequence[str]) -> str:
    shown = [*names[:FEWEST], *([f"{len(names) - FEWEST} more"] if len(names) > FEWEST else [])]
    return join_names(shown)


def _failures(summed: Summed) -> str:
    """The share of pairs on which pair-dependent methods are at or below zero; of many, the first, best and worst."""
    matrix, blind = summed.run.matrix, summed.run.blind
    methods = [name for name in sort_explainers(matrix.explainers, blind) if name not in blind]
    for metric in summed.catalogue.first(SIGNED, matrix.metrics):
        columns = {name: matrix.entries[metric, name] for name in methods if (metric, name) in matrix.entries}
        shares = {name: float((own <= 0).sum() / n) for name, own in columns.items() if (n := np.isfinite(own).sum())}
        if shares:
            label = summed.catalogue.label(metric)
            if not any(shares.values()):
                better = f"the maps of {_few([*shares])} are better than chance on all pairs with a value"
                return f"No failures by {label}: {better}."
            ordered = sorted(shares, key=shares.__getitem__)
            some = list(shares) if len(shares) <= FEWEST else [next(iter(shares)), ordered[0], ordered[-1]]
            texts = [f"{name} on {100 * shares[name]:.0f} %" for name in dict.fromkeys(some)]
            where = f"{join_names(texts)} of the pairs with a value"
            return f"Failures by {label}, where the map is no better than chance: {where}."
    return ""
