"""Do 95 % intervals contain the true mean 95 times in 100? python -m benchmarks.coverage: ours and others, simulated.

Pairs of a class are alike, classes have equal or unequal numbers of pairs, values are normal, skewed, hits or misses.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from sfam_bench.core.files import atomic
from sfam_bench.statistics import clustered_intervals

OUT = Path(__file__).parents[1] / "results" / "bench" / "coverage.json"
WANTED = (0.93, 0.97)
CLUSTERS, CORRELATIONS = (2, 3, 5, 8, 10, 20, 50), (0.0, 0.3, 0.7)
SIZES, VALUES = ("equal", "unequal", "extreme"), ("normal", "skewed", "hits")
SIZE = 6  # pairs of a class, on average
HIT = 0.8  # how often a hit is one: of the order of a pointing game
BLOCK = 100  # repetitions that share their resamples; each block draws others, so that no draw marks all
TAILS = (0.025, 0.975)
Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What is drawn: how many classes, of which sizes, how alike their pairs are (intraclass correlation), and what."""

    clusters: int
    sizes: str
    correlation: float
    values: str


def settings() -> list[Setting]:
    """All of them."""
    return [Setting(*each) for each in product(CLUSTERS, SIZES, CORRELATIONS, VALUES)]


def drawn(setting: Setting, repeats: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Values (pairs, repeats), the class of each pair, and the true mean."""
    sizes = np.full(setting.clusters, SIZE)
    if setting.sizes == "unequal":
        sizes = rng.integers(1, 2 * SIZE, setting.clusters)
    if setting.sizes == "extreme":  # most of the pairs lie in a few classes
        sizes = np.ceil(rng.lognormal(np.log(SIZE) - 0.5, 1, setting.clusters)).astype(int)
    labels, rho = np.arange(setting.clusters).repeat(sizes), setting.correlation
    if setting.values == "hits":
        chance = np.full((setting.clusters, repeats), HIT)
        if rho:  # beta-binomial
            spread = 1 / rho - 1
            chance = rng.beta(HIT * spread, (1 - HIT) * spread, chance.shape)
        return (rng.random((len(labels), repeats)) < chance[labels]).astype(float), labels, HIT
    draw = rng.standard_normal if setting.values == "normal" else rng.standard_exponential
    between, within = draw((setting.clusters, repeats)), draw((len(labels), repeats))
    truth = 0.0 if setting.values == "normal" else np.sqrt(rho) + np.sqrt(1 - rho)
    return np.sqrt(rho) * between[labels] + np.sqrt(1 - rho) * within, labels, float(truth)


def ours(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bounds:
    """Those of the tables: Wilson's for hits, Student's t for few classes, widened percentiles otherwise."""
    found = clustered_intervals(values, labels, draws, seed, shares=bool(np.isin(values, (0, 1)).all()))
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def percentile(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bounds:
    """Plain percentiles of the resampled means."""
    sums, sizes, times = _resampled(values, labels, draws, seed)
    low, high = np.quantile((times @ sums) / (times @ sizes), TAILS, axis=0)
    return low, high


def expanded(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bounds:
    """Percentiles, widened by the number of classes as it is (Hesterberg 2015)."""
    sums, sizes, times = _resampled(values, labels, draws, seed)
    count = len(sums)
    tails = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf(TAILS, count - 1))
    low, high = np.quantile((times @ sums) / (times @ sizes), tails, axis=0)
    return low, high


def student(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bounds:
    """No resampling: the mean and its clustered standard error, by Student's t over the classes."""
    sums, sizes, _ = _resampled(values, labels, 1, seed)
    mean, error = _studentised(np.ones((1, len(sums))), sums, sizes)
    half = stats.t.ppf(TAILS[1], len(sums) - 1) * error[0]
    return mean[0] - half, mean[0] + half


def bootstrap_t(values: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Bounds:
    """Percentiles of the studentised resampled means (Cameron, Gelbach and Miller 2008)."""
    sums, sizes, times = _resampled(values, labels, draws, seed)
    (mean,), (error,) = _studentised(np.ones((1, len(sums))), sums, sizes)
    means, errors = _studentised(times, sums, sizes)
    # resamples of equal classes have no error: they say that the mean is far off, not that it is exact
    ratio = np.divide(means - mean, errors, where=errors > 1e-12, out=np.sign(means - mean) * 1e3)
    low, high = np.quantile(ratio, TAILS, axis=0)
    return mean - high * error, mean - low * error


METHODS = {
    **{"ours": ours, "expanded": expanded, "percentile": percentile},
    **{"student": student, "bootstrap_t": bootstrap_t},
}


def _resampled(
    values: np.ndarray, labels: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums and sizes of the classes, and how often each resample holds each class."""
    count = labels.max() + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, labels, values)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return sums, np.bincount(labels)[:, None].astype(float), times.astype(float)


def _studentised(times: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> Bounds:
    """Means and their clustered standard errors, of each resample and repetition."""
    count, total = len(sums), times @ sizes
    means = (times @ sums) / total
    squares = times @ sums**2 - 2 * means * (times @ (sums * sizes)) + means**2 * (times @ sizes**2)
    return means, np.sqrt(count / (count - 1) * squares.clip(0)) / total


def coverage(setting: Setting, repeats: int, draws: int, seed: int, methods: Sequence[str]) -> dict[str, float]:
    """By method: the share of intervals that hold the true mean."""
    rng, held = np.random.default_rng([seed, settings().index(setting)]), dict.fromkeys(methods, 0)
    blocks = -(-repeats // BLOCK)
    for block in range(blocks):
        values, labels, truth = drawn(setting, BLOCK, rng)
        for method in methods:
            low, high = METHODS[method](values, labels, draws, seed + block)
            held[method] += int(((low <= truth) & (truth <= high)).sum())
    return {method: count / (blocks * BLOCK) for method, count in held.items()}


def within(share: float) -> bool:
    """Whether a coverage is one that we want."""
    return WANTED[0] <= share <= WANTED[1]


def table(found: Mapping[Setting, Mapping[str, float]]) -> str:
    """A line a setting; what lies outside is marked."""
    head = f"{'classes':>7} {'sizes':>8} {'correlation':>11} {'values':>7}" + "".join(f"{m:>13}" for m in METHODS)
    lines = []
    for one, shares in found.items():
        cells = "".join(f"{100 * share:>12.1f}{' ' if within(share) else '!'}" for share in shares.values())
        lines.append(f"{one.clusters:>7} {one.sizes:>8} {one.correlation:>11} {one.values:>7}{cells}")
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    found = {each: coverage(each, options.repeats, options.draws, 0, [*METHODS]) for each in settings()}
    inside = {method: sum(within(shares[method]) for shares in found.values()) for method in METHODS}
    print(table(found))
    print(f"within {WANTED} of {len(found)} settings:", ", ".join(f"{name} {count}" for name, count in inside.items()))
    facts = {"repeats": options.repeats, "draws": options.draws, "wanted": WANTED, "inside": inside}
    rows = [{**asdict(each), **shares} for each, shares in found.items()]
    with atomic(OUT) as temporary:
        temporary.write_text(json.dumps({**facts, "settings": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
