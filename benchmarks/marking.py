"""How often do tables of equal methods report false differences? python -m benchmarks.marking: ours beside others.

Tables of ten equal methods over the same pairs are simulated: pairs of a class are alike, classes have equal or unequal
numbers of pairs, values are normal, skewed, or hits and misses, and a share of values is flagged. Each error is at
least one mark in a column that should not be there. The last rows measure power: how often a method that is worse by
one standard deviation of a pair is marked as worse.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.coverage import SIZE, drawn
from benchmarks.coverage import Setting as Drawing
from sfam_bench.core.files import atomic
from sfam_bench.statistics import (
    FEW_CLASSES,
    LEVEL,
    clustered_intervals,
    compare_with_best,
    holm,
    sign_flip_p,
)

OUT = Path(__file__).parents[1] / "results" / "bench" / "marking.json"
METHODS = 10
CLUSTERS, CORRELATIONS, FLAGGED = (3, 5, 6, 8, 15, 50), (0.0, 0.3, 0.7), (0.0, 0.15)
SIZES, VALUES = ("equal", "unequal", "extreme"), ("normal", "skewed", "hits")
Table = tuple[np.ndarray, np.ndarray]  # values (pairs, methods), NaN where flagged, and the class of each pair


@dataclass(frozen=True)
class Setting:
    """What is drawn: classes, their sizes, how alike their pairs are, which values, and the share that is flagged."""

    clusters: int
    sizes: str
    correlation: float
    values: str
    flagged: float


def settings() -> list[Setting]:
    """All of them."""
    return [Setting(*each) for each in product(CLUSTERS, SIZES, CORRELATIONS, VALUES, FLAGGED)]


def table(setting: Setting, rng: np.random.Generator) -> Table:
    """Equal methods, each drawn anew over the same classes."""
    of = Drawing(setting.clusters, setting.sizes, setting.correlation, setting.values)
    values, labels, _ = drawn(of, METHODS, rng)
    values[rng.random(values.shape) < setting.flagged] = np.nan
    return values, labels


def pairwise_losers(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> bool:
    """Ties by the interval of each paired difference to the best of each method's own pairs."""
    means = np.nanmean(values, axis=0)
    best = int(means.argmax())
    against = clustered_intervals(np.delete(values, best, axis=1) - values[:, [best]], labels, draws, seed)
    return any(not interval.low <= 0 <= interval.high for interval in against)


def losers(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> bool:
    """Ties by the step-down comparison with the best."""
    found = compare_with_best(values, labels, draws, seed)
    return found.best >= 0 and bool((found.compared & (found.p <= LEVEL)).any())


def wilcoxon(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> bool:
    """Any difference to one method, by Wilcoxon's signed ranks of pairs (normal approximation) and Holm."""
    differences = (column[np.isfinite(column)] for column in (values[:, 1:] - values[:, [0]]).T)
    p = [float(stats.wilcoxon(column, method="approx").pvalue) if column.any() else 1.0 for column in differences]
    return bool((holm(np.array(p)) <= LEVEL).any())


def sign_flips(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> bool:
    """Any difference to one method, by sign flips of classes and Holm."""
    return bool((holm(sign_flip_p(values[:, 1:] - values[:, [0]], labels, draws, seed)) <= LEVEL).any())


def bold_by_interval(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> bool:
    """Any method bold against one, by the interval of its paired difference."""
    return any(found.low > 0 for found in clustered_intervals(values[:, 1:] - values[:, [0]], labels, draws, seed))


RULES: dict[str, Callable[[np.ndarray, np.ndarray, int, int], bool]] = {
    **{"losers, pairwise intervals": pairwise_losers, "losers, compare_with_best": losers},
    **{"difference, Wilcoxon of pairs": wilcoxon, "difference, sign flips of classes": sign_flips},
    **{"bold, pairwise intervals": bold_by_interval},
}


def rates(setting: Setting, tables: int, draws: int) -> dict[str, float]:
    """By rule: the share of tables with at least one false mark."""
    rng, found = np.random.default_rng([0, settings().index(setting)]), dict.fromkeys(RULES, 0)
    for number in range(tables):
        values, labels = table(setting, rng)
        for name, rule in RULES.items():
            found[name] += rule(values, labels, draws, number)  # other draws each time, so that no draw marks all
    return {name: count / tables for name, count in found.items()}


def power(clusters: int, tables: int, draws: int) -> dict[str, float]:
    """By rule: how often the one method that is worse by one standard deviation is marked as worse."""
    found = {"pairwise intervals": 0, "compare_with_best": 0}
    rng, of = np.random.default_rng([1, clusters]), Drawing(clusters, "equal", 0.3, "normal")
    for number in range(tables):
        values, labels, _ = drawn(of, METHODS, rng)
        values[:, 0] -= 1
        best = int(values.mean(axis=0).argmax())
        (interval,) = clustered_intervals(values[:, [0]] - values[:, [best]], labels, draws, number)
        found["pairwise intervals"] += interval.high < 0
        found["compare_with_best"] += compare_with_best(values, labels, draws, number).p[0] <= LEVEL
    return {name: count / tables for name, count in found.items()}


def summed(found: Mapping[Setting, Mapping[str, float]]) -> list[dict[str, float | str]]:
    """By number of classes and correlation: mean and greatest rate of each rule, over sizes, values and flags."""
    rows = []
    for clusters, correlation in product(CLUSTERS, CORRELATIONS):
        own = [r for s, r in found.items() if (s.clusters, s.correlation) == (clusters, correlation)]
        row: dict[str, float | str] = {"classes": clusters, "correlation": correlation}
        for name in RULES:
            row[f"{name}: mean"] = float(np.mean([rate[name] for rate in own]))
            row[f"{name}: greatest"] = max(rate[name] for rate in own)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    found = {each: rates(each, options.tables, options.draws) for each in settings()}
    facts = {"tables": options.tables, "draws": options.draws, "methods": METHODS, "pairs_a_class": SIZE}
    powers = [{"classes": n, **power(n, options.tables, options.draws)} for n in CLUSTERS if n >= FEW_CLASSES]
    rows = [{**asdict(each), **shares} for each, shares in found.items()]
    for row in summed(found):
        print(", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    print(powers)
    with atomic(OUT) as temporary:
        text = json.dumps({**facts, "power": powers, "summed": summed(found), "settings": rows}, indent=1)
        temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
