"""How surely maps tell a model that uses a shortcut from one that does not."""

import numpy as np
import pandas as pd
import scipy

from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics.intervals import clustered_intervals

DETECTION = ["explainer", "auc", "low", "high", "count", "clusters"]


def detection_rate(shortcut: Matrix, clean: Matrix, metric: str) -> pd.DataFrame:
    """The AUC with which the metric of one pair's map tells the first model from the second, by explainer of both.

    0.5 is chance, 1 a higher value on every pair of the first. The interval is over the classes of both runs' queries.
    """
    rows = []
    for name in shortcut.explainers:
        if not all((metric, name) in run.entries for run in (shortcut, clean)):
            continue
        columns = [(run.entries[metric, name], run.clusters) for run in (shortcut, clean)]
        kept = [(values[np.isfinite(values)], of[np.isfinite(values)]) for values, of in columns]
        values, clusters = influences(kept[0][0], kept[1][0]), np.concatenate([of for _, of in kept])
        (found,) = clustered_intervals(values[:, None], clusters)
        rows.append((name, found.mean, found.low, found.high, found.count, found.clusters))
    return pd.DataFrame(rows, columns=DETECTION)


def influences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The AUC plus the influence on it of each value of `first`, then of `second`; their mean is the AUC.

    A value's influence is its placement, the share of the other sample on the right side of it (ties count half), less
    the AUC. The errors of both samples add up, so each is scaled by the size of both samples over its own: the standard
    error of the mean is then that of DeLong et al. (1988).
    """
    both, (n, m) = np.concatenate([first, second]), (len(first), len(second))
    if not n * m:
        return np.full(n + m, np.nan)  # one sample alone separates nothing
    ranks = scipy.stats.rankdata(both)
    below = (ranks[:n] - scipy.stats.rankdata(first)) / m
    above = 1 - (ranks[n:] - scipy.stats.rankdata(second)) / n
    auc = below.mean()
    return auc + np.concatenate([(below - auc) * (n + m) / n, (above - auc) * (n + m) / m])
