"""Evaluation of metrics: do they agree on explainers, and do they separate the exact decomposition from controls?"""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sfam_bench.runs.matrix import FACTS, RUN, Matrix
from sfam_bench.statistics import LEVEL, clustered_intervals, holm, sign_flip_p
from sfam_bench.statistics.agreement import kendall_w, krippendorff_alpha, ranking, row_taus, tau_matrix

EXACT = "similarity_decomposition"
CONTROLS = ("chance", "lafam")
SPLITS = 100  # random splits of the classes into halves
FULL_ENOUGH = 0.5  # share of the pairs; an explainer with fewer is excluded, as the others would lose theirs
TELLS = [*RUN, "metric", "explainer", "control", "share", "low", "high", "count", "clusters", "p_holm", "tells"]
RANKS = [*RUN, "metric", "explainer", "rank", "blocks", "of", "statistic", "p", "critical_difference", "halves"]
AGREEMENT = ["over", "within", "raters", "controls", "explainers", "w", "alpha", "tau", "least_tau"]
CAUSE = "causal_agreement"  # the family of metrics that compare a map with measured effects
PREDICTION = [*RUN, "metric", "explainers", "tau", "pair_dependent", "tau_without_blind"]
AXES = {  # columns in which raters differ, and columns that they share
    "metrics": (["metric"], RUN),
    "metrics of a kind": (["metric"], [*RUN, "group"]),
    "baselines": (["baseline"], [*RUN, "family", "steps"]),
    "step counts": (["steps"], [*RUN, "family", "baseline"]),
    "data sets and models": (["dataset", "model"], ["target", "metric"]),
}
SHARED = ("group", "family", "baseline", "steps")  # entries of a metric's card


def separation(matrix: Matrix, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The share of pairs on which each metric ranks the exact decomposition above a control; ties count half.

    A metric separates them (`tells`) if the share is above one half and `p_holm` at most LEVEL, by sign flips of
    classes, adjusted over all metrics and controls of the run.
    """
    rows: list[tuple[Any, ...]] = []
    p_values: list[float] = []
    for metric, sign in _signs(matrix, metrics).items():
        controls = [name for name in CONTROLS if (metric, name) in matrix.entries]
        if (metric, EXACT) not in matrix.entries or not controls:
            continue
        ahead = matrix.entries[metric, EXACT][:, None] - matrix.block([(metric, name) for name in controls])
        wins = (np.sign(sign * ahead) + 1) / 2
        p_values += sign_flip_p(wins - 0.5, matrix.clusters).tolist()
        shares = (np.isin(wins, (0, 1)) | np.isnan(wins)).all(axis=0)  # without ties
        for control, found in zip(controls, clustered_intervals(wins, matrix.clusters, shares=shares), strict=True):
            clusters = found.clusters if found.clustered else found.count
            share = (found.mean, found.low, found.high, found.count, clusters)
            rows.append((*matrix.run, metric, EXACT, control, *share))
    adjusted = holm(np.array(p_values))
    return pd.DataFrame(
        [(*row, p, row[TELLS.index("share")] > 0.5 and p <= LEVEL) for row, p in zip(rows, adjusted, strict=True)],
        columns=TELLS,
    )


def _signs(matrix: Matrix, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """1 for each metric of the matrix of which higher is better, -1 if lower is; without those of no direction."""
    directions = {name: spec.get("higher_is_better") for name, spec in metrics.items()}
    return {name: 1 if directions[name] else -1 for name in matrix.metrics if directions.get(name) is not None}


def ranks(matrix: Matrix, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Mean ranks of the explainers on each metric over classes (over pairs if there is only one class), 1 is best.

    Classes are the blocks, since pairs of a class are correlated. `halves` is the split-half reliability: the mean tau
    of the orders in two halves of the classes; an order that chance decides agrees with no other metric.
    """
    rows: list[tuple[Any, ...]] = []
    for metric, sign in _signs(matrix, metrics).items():
        names = np.array([name for name in matrix.explainers if (metric, name) in matrix.entries])
        if not len(names):
            continue
        entries = sign * matrix.block([(metric, name) for name in names])
        scores, names, of = _blocks(entries, names, matrix.clusters)
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


def prediction(table: pd.DataFrame, cause: str, blind: Container[str] = ()) -> pd.DataFrame:
    """Kendall's tau of each metric's ranking of explainers in `ratings` with that by `cause`, for each run that has it.

    With and without the explainers that ignore the pair; NaN with fewer than three.
    """
    rows: list[tuple[Any, ...]] = []
    for keys, part in table.groupby(level=RUN, sort=False):
        own = part.set_axis(part.index.get_level_values("metric"), axis=0)
        if cause not in own.index:
            continue
        for metric in own.index.drop(cause):
            both = own.loc[[metric, cause]].dropna(axis=1)
            pairs = (both, both[[name for name in both.columns if name not in blind]])
            found = [(each.shape[1], _tau(each.to_numpy(dtype=float))) for each in pairs]
            rows.append((*keys, metric, *found[0], *found[1]))
    return pd.DataFrame(rows, columns=PREDICTION)


def _tau(scores: np.ndarray) -> float:
    return float(tau_matrix(scores)[0, 1]) if scores.shape[1] > 2 else np.nan


def agreement(table: pd.DataFrame, blind: Container[str] = ()) -> pd.DataFrame:
    """Rank agreement of `ratings` along each axis, with and without the explainers that ignore the pair.

    Controls inflate agreement, as nearly every metric ranks chance last. What rates fewer than half of the explainers
    that another rates (only some have matches) is left out: agreement is over those that all rate.
    """
    rows: list[tuple[Any, ...]] = []
    pair_dependent = [name for name in table.columns if name not in blind]
    for axis, (differing, shared) in AXES.items():
        for keys, everyone in table.groupby(level=shared, sort=False):
            rated = everyone.notna().sum(axis=1)
            group = everyone[2 * rated >= rated.max()]
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
    return scores.shape[1], kendall_w(scores), krippendorff_alpha(scipy.stats.rankdata(scores, axis=1)), mean, least
