"""What metrics are worth: do they rank explainers alike, and do they tell the exact decomposition from the controls?"""

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
HALVES = 100  # random halves of the classes
FULL_ENOUGH = 0.5  # of the pairs: an explainer with fewer would cost the others theirs
TELLS = [*RUN, "metric", "explainer", "control", "share", "low", "high", "count", "clusters", "p_holm", "tells"]
RANKS = [*RUN, "metric", "explainer", "rank", "blocks", "of", "statistic", "p", "critical_difference", "halves"]
AGREEMENT = ["over", "within", "raters", "controls", "explainers", "w", "alpha", "tau", "least_tau"]
AXES = {  # what the raters differ in, and what they have in common
    "metrics": (["metric"], RUN),
    "metrics of a kind": (["metric"], [*RUN, "group"]),
    "baselines": (["baseline"], [*RUN, "family", "steps"]),
    "step counts": (["steps"], [*RUN, "family", "baseline"]),
    "data sets and models": (["dataset", "model"], ["target", "metric"]),
}
SHARED = ("group", "family", "baseline", "steps")  # of a metric's facts


def separation(records: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """How often each metric puts the exact decomposition above a control, pair by pair; ties count half.

    A metric `tells` them apart where the share is above one half and `p_holm` at most LEVEL: sign flips of classes,
    adjusted over all metrics and controls of the run.
    """
    rows: list[tuple[Any, ...]] = []
    for matrix in direct_records(records, pairs, metrics):
        place = {column: number for number, column in enumerate(matrix.columns)}
        asked = [
            (metric, control)
            for metric in dict.fromkeys(metric for metric, _ in matrix.columns)
            for control in CONTROLS
            if (metric, EXACT) in place and (metric, control) in place
        ]
        ours = matrix.entries[:, [place[metric, EXACT] for metric, _ in asked]]
        theirs = matrix.entries[:, [place[key] for key in asked]]
        wins = (np.sign(ours - theirs) + 1) / 2
        p_values = holm(sign_flip_p(wins - 0.5, matrix.clusters))
        shares = (np.isin(wins, (0, 1)) | np.isnan(wins)).all(axis=0)  # without ties
        intervals = clustered_intervals(wins, matrix.clusters, shares=shares)
        for (metric, control), found, p in zip(asked, intervals, p_values.tolist(), strict=True):
            clusters = found.clusters if found.clustered else found.count
            share = (found.mean, found.low, found.high, found.count, clusters, p, found.mean > 0.5 and p <= LEVEL)
            rows.append((*matrix.run, metric, EXACT, control, *share))
    return pd.DataFrame(rows, columns=TELLS)


def direct_records(
    records: pd.DataFrame, pairs: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]
) -> Iterator[Matrix]:
    """The records whose metric has a better side, turned so that greater is better."""
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
    """Mean ranks of the explainers on each metric over classes (over pairs if there is but one), 1 is best.

    Classes are the blocks since pairs of a class are alike. `halves` is the mean tau of the orders that the two halves
    of the classes give: no metric can agree with another better than with itself.
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
    """Means of each class over the pairs that all explainers have, the explainers kept, and what a block is."""
    counts = np.isfinite(entries).sum(axis=0)
    kept = counts > FULL_ENOUGH * counts.max(initial=0)
    complete = np.isfinite(entries[:, kept]).all(axis=1)
    frame = pd.DataFrame(entries[complete][:, kept]).groupby(clusters[complete], sort=False)
    if frame.ngroups > 1:
        return frame.mean().to_numpy(), names[kept], "classes"
    return entries[complete][:, kept], names[kept], "pairs"


def _split_half_tau(scores: np.ndarray, seed: int = 0) -> float:
    """Mean Kendall's tau of the orders of two random halves of the blocks."""
    rng, blocks = np.random.default_rng(seed), len(scores)
    if blocks < 4 or scores.shape[1] < 3:
        return float("nan")
    orders = (rng.permutation(blocks) for _ in range(HALVES))
    cuts = [np.split(order, [blocks // 2]) for order in orders]
    one, other = (np.stack([scores[cut[side]].mean(axis=0) for cut in cuts]) for side in (0, 1))
    found = row_taus(one, other)
    return float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else float("nan")


def ratings(summary: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each (dataset, model, target, metric), a column for each explainer: means, greater is better.

    `metrics` are those that are rated, each with what a manifest says of it.
    """
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna() & (summary["count"] > 0)]
    own = own[own["metric"].isin([*metrics])]
    signed = own.assign(mean=own["mean"].where(own["higher_is_better"].astype(bool), -own["mean"]))
    table = signed.pivot(index=[*RUN, "metric"], columns="explainer", values="mean").reset_index()
    for name in SHARED:
        table[name] = [str(metrics[metric].get(name) or "") for metric in table["metric"]]
    return table.set_index([*RUN, "metric", *SHARED])


def agreement(table: pd.DataFrame, blind: Container[str] = ()) -> pd.DataFrame:
    """Rank agreement of `ratings` along each axis, with and without the explainers that are blind to the pair.

    Controls make agreement cheap: nearly every metric puts chance last.
    """
    rows: list[tuple[Any, ...]] = []
    seeing = [name for name in table.columns if name not in blind]
    for axis, (differing, shared) in AXES.items():
        for keys, group in table.groupby(level=shared, sort=False):
            if len(group.index.to_frame()[differing].drop_duplicates()) < 2:
                continue
            within = " · ".join(str(key) for key in (keys if isinstance(keys, tuple) else (keys,)) if key)
            for controls, chosen in ((True, [*table.columns]), (False, seeing)):
                rows.append((axis, within, len(group), controls, *_agreement(group[chosen].to_numpy(dtype=float))))
    return pd.DataFrame(rows, columns=AGREEMENT)


def _agreement(scores: np.ndarray) -> tuple[int, float, float, float, float]:
    """Explainers that all rate, W, alpha of the ranks, mean and least tau."""
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if scores.shape[1] < 2:
        return scores.shape[1], np.nan, np.nan, np.nan, np.nan
    taus = tau_matrix(scores)[np.triu_indices(len(scores), 1)]
    taus = taus[np.isfinite(taus)]
    mean, least = (float(taus.mean()), float(taus.min())) if len(taus) else (np.nan, np.nan)
    return scores.shape[1], kendall_w(scores), krippendorff_alpha(stats.rankdata(scores, axis=1)), mean, least
