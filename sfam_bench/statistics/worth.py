"""Evaluation of metrics: do they agree on explainers, and do they separate the exact decomposition from controls?"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sfam_bench.statistics import FACTS, LEVEL, RUN, Matrix, clustered_intervals, holm, matrices, sign_flip_p
from sfam_bench.statistics.agreement import kendall_w, krippendorff_alpha, ranking, row_taus, tau_matrix

EXACT = "similarity_decomposition"
CONTROLS = ("chance", "lafam")
SPLITS = 100  # random splits of the classes into halves
FULL_ENOUGH = 0.5  # share of the pairs; an explainer with fewer is excluded, as the others would lose theirs
TELLS = [*RUN, "metric", "explainer", "control", "share", "low", "high", "count", "clusters", "p_holm", "tells"]
RANKS = [*RUN, "metric", "explainer", "rank", "blocks", "of", "statistic", "p", "critical_difference", "halves"]
AGREEMENT = ["over", "within", "raters", "controls", "explainers", "w", "alpha", "tau", "least_tau"]
AXES = {  # columns in which raters differ, and columns that they share
    "metrics": (["metric"], RUN),
    "metrics of a kind": (["metric"], [*RUN, "group"]),
    "baselines": (["baseline"], [*RUN, "family", "steps"]),
    "step counts": (["steps"], [*RUN, "family", "baseline"]),
    "data sets and models": (["dataset", "model"], ["target", "metric"]),
}
SHARED = ("group", "family", "baseline", "steps")  # entries of a metric's card


def separation(records: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The share of pairs on which each metric ranks the exact decomposition above a control; ties count half.

    A metric separates them (`tells`) if the share is above one half and `p_holm` at most LEVEL, by sign flips of
    classes, adjusted over all metrics and controls of the run.
    """
    rows: list[tuple[Any, ...]] = []
    for matrix in direct_records(records, pairs, metrics):
        place = {column: number for number, column in enumerate(matrix.columns)}
        compared = [
            (metric, control)
            for metric in dict.fromkeys(metric for metric, _ in matrix.columns)
            for control in CONTROLS
            if (metric, EXACT) in place and (metric, control) in place
        ]
        exact = matrix.entries[:, [place[metric, EXACT] for metric, _ in compared]]
        controls = matrix.entries[:, [place[key] for key in compared]]
        wins = (np.sign(exact - controls) + 1) / 2
        p_values = holm(sign_flip_p(wins - 0.5, matrix.clusters))
        shares = (np.isin(wins, (0, 1)) | np.isnan(wins)).all(axis=0)  # columns without ties
        intervals = clustered_intervals(wins, matrix.clusters, shares=shares)
        for (metric, control), found, p in zip(compared, intervals, p_values.tolist(), strict=True):
            clusters = found.clusters if found.clustered else found.count
            share = (found.mean, found.low, found.high, found.count, clusters, p, found.mean > 0.5 and p <= LEVEL)
            rows.append((*matrix.run, metric, EXACT, control, *share))
    return pd.DataFrame(rows, columns=TELLS)


def direct_records(
    records: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]
) -> Iterator[Matrix]:
    """The records of metrics with a direction, with signs such that greater is better."""
    signs = {
        name: 1 if spec["higher_is_better"] else -1
        for name, spec in metrics.items()
        if spec.get("higher_is_better") is not None
    }
    for matrix in matrices(records, pairs):
        kept = [at for at, (metric, explainer) in enumerate(matrix.columns) if metric in signs and explainer != FACTS]
        columns, flagged = [matrix.columns[at] for at in kept], [matrix.flagged[at] for at in kept]
        entries = matrix.entries[:, kept] * np.array([signs[metric] for metric, _ in columns])
        yield replace(matrix, columns=columns, entries=entries, flagged=flagged)


def ranks(records: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Mean ranks of the explainers on each metric over classes (over pairs if there is only one class), 1 is best.

    Classes are the blocks, since pairs of a class are correlated. `halves` is the split-half reliability: the mean tau
    of the orders in two halves of the classes, which bounds the agreement with other metrics.
    """
    rows: list[tuple[Any, ...]] = []
    for matrix in direct_records(records, pairs, metrics):
        for metric in dict.fromkeys(metric for metric, _ in matrix.columns):
            own = np.array([name == metric for name, _ in matrix.columns])
            names = np.array([explainer for _, explainer in matrix.columns])[own]
            scores, names, of = _blocks(matrix.entries[:, own], names, matrix.clusters)
            if not len(scores) or len(names) < 2:
                continue
            found, halves = ranking(scores), _split_half_tau(scores)
            tested = (found.blocks, of, found.statistic, found.p, found.critical_difference, halves)
            rows += [(*matrix.run, metric, str(n), float(r), *tested) for n, r in zip(names, found.ranks, strict=True)]
    return pd.DataFrame(rows, columns=RANKS)


def _blocks(entries: np.ndarray, names: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Means per class over the pairs that all kept explainers have, these explainers, and the kind of block."""
    counts = np.isfinite(entries).sum(axis=0)
    kept = counts > FULL_ENOUGH * counts.max(initial=0)
    complete = np.isfinite(entries[:, kept]).all(axis=1)
    frame = pd.DataFrame(entries[complete][:, kept]).groupby(clusters[complete], sort=False)
    if frame.ngroups > 1:
        return frame.mean().to_numpy(), names[kept], "classes"
    return entries[complete][:, kept], names[kept], "pairs"


def _split_half_tau(scores: np.ndarray, seed: int = 0) -> float:
    """Mean Kendall's tau of the orders in two random halves of the blocks."""
    rng, blocks = np.random.default_rng(seed), len(scores)
    if blocks < 4 or scores.shape[1] < 3:
        return float("nan")
    orders = (rng.permutation(blocks) for _ in range(SPLITS))
    halves = [np.split(order, [blocks // 2]) for order in orders]
    one, other = (np.stack([scores[half[side]].mean(axis=0) for half in halves]) for side in (0, 1))
    found = row_taus(one, other)
    return float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else float("nan")


def ratings(summary: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per (dataset, model, target, metric), a column per explainer: means, greater is better.

    `metrics` are the metrics to include, with their entries in the manifest.
    """
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna() & (summary["count"] > 0)]
    own = own[own["metric"].isin([*metrics])]
    signed = own.assign(mean=own["mean"].where(own["higher_is_better"].astype(bool), -own["mean"]))
    table = signed.pivot(index=[*RUN, "metric"], columns="explainer", values="mean").reset_index()
    for name in SHARED:
        table[name] = [str(metrics[metric].get(name) or "") for metric in table["metric"]]
    return table.set_index([*RUN, "metric", *SHARED])


def agreement(table: pd.DataFrame, blind: Container[str] = ()) -> pd.DataFrame:
    """Rank agreement of `ratings` along each axis, with and without the explainers that ignore the pair.

    Controls inflate agreement, as nearly every metric ranks chance last.
    """
    rows: list[tuple[Any, ...]] = []
    pair_dependent = [name for name in table.columns if name not in blind]
    for axis, (differing, shared) in AXES.items():
        for keys, group in table.groupby(level=shared, sort=False):
            if len(group.index.to_frame()[differing].drop_duplicates()) < 2:
                continue
            within = " · ".join(str(key) for key in (keys if isinstance(keys, tuple) else (keys,)) if key)
            for controls, chosen in ((True, [*table.columns]), (False, pair_dependent)):
                rows.append((axis, within, len(group), controls, *_agreement(group[chosen].to_numpy(dtype=float))))
    return pd.DataFrame(rows, columns=AGREEMENT)


def _agreement(scores: np.ndarray) -> tuple[int, float, float, float, float]:
    """The number of explainers that all rate, W, alpha of the ranks, mean and least tau."""
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if scores.shape[1] < 2:
        return scores.shape[1], np.nan, np.nan, np.nan, np.nan
    taus = tau_matrix(scores)[np.triu_indices(len(scores), 1)]
    taus = taus[np.isfinite(taus)]
    mean, least = (float(taus.mean()), float(taus.min())) if len(taus) else (np.nan, np.nan)
    return scores.shape[1], kendall_w(scores), krippendorff_alpha(stats.rankdata(scores, axis=1)), mean, least
