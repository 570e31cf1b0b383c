"""Rank agreement of raters: Friedman and Nemenyi, Kendall's W and tau, Krippendorff's alpha."""

from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
import scipy

from sfam_bench.core.errors import UserError

FEWEST = 3  # columns that Friedman's test needs


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of the columns over the complete rows, 1 is best, and the test whether they differ."""

    ranks: np.ndarray
    blocks: int
    statistic: float  # Friedman's chi square, corrected for ties; NaN for fewer than three columns
    p: float
    critical_difference: float  # of mean ranks (Nemenyi)


def ranking(scores: np.ndarray, level: float = 0.05) -> Ranking:
    """Rank the columns within each row, greater is better, ties share their mean rank (Demšar, JMLR 2006)."""
    complete = scores[np.isfinite(scores).all(axis=1)]
    blocks, columns = complete.shape
    if not blocks or columns < 2:
        raise UserError("ranks need two explainers and a pair that none of them has flagged")
    ranks = scipy.stats.rankdata(-complete, axis=1)
    statistic, p = np.nan, np.nan
    if columns >= FEWEST and np.ptp(ranks, axis=1).any():
        statistic, p = scipy.stats.friedmanchisquare(*complete.T)
    difference = critical_difference(columns, blocks, level)
    return Ranking(ranks.mean(axis=0), blocks, float(statistic), float(p), difference)


def critical_difference(columns: int, blocks: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference: mean ranks closer than this do not differ significantly at family-wise `level`."""
    quantile = scipy.stats.studentized_range.ppf(1 - level, columns, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(columns * (columns + 1) / (6 * blocks)))


def find_cliques(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """The maximal runs of two or more sorted `ranks` within `difference`, as (first, last)."""
    ends = np.searchsorted(ranks, ranks + difference, side="right") - 1
    found: list[tuple[int, int]] = []
    for start, end in enumerate(ends.tolist()):
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


def kendall_w(ratings: np.ndarray) -> float:
    """Kendall's W of raters (rows) over items (columns), corrected for ties; 1 is the same order for all.

    Items not rated (NaN) by every rater are ignored. NaN with fewer than two raters or items, or if all ratings are
    tied.
    """
    ratings = ratings[:, np.isfinite(ratings).all(axis=0)]
    raters, items = ratings.shape
    if min(raters, items) < 2:
        return float("nan")
    ranks = scipy.stats.rankdata(ratings, axis=1)
    ties = sum(float((count**3 - count).sum()) for count in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = raters**2 * (items**3 - items) - raters * ties
    spread = ((ranks.sum(axis=0) - raters * (items + 1) / 2) ** 2).sum()
    return float(12 * spread / most) if most > 0 else float("nan")


def krippendorff_alpha(ratings: np.ndarray, level: Literal["nominal", "ordinal", "interval"] = "ordinal") -> float:
    """Krippendorff's alpha of raters (rows) over items (columns); NaN is a missing rating.

    1 is agreement, 0 chance, below 0 worse than chance; NaN if all ratings are equal or no item has two. `level` is
    nominal, ordinal or interval.
    """
    rated = ratings[:, np.isfinite(ratings).sum(axis=0) > 1]
    if len(np.unique(rated[np.isfinite(rated)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(rated, level_of_measurement=level))


def tau_matrix(ratings: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each two raters (rows) over the items that both rate; NaN if one has only ties.

    Vectorised, since calling scipy for each two of a hundred metrics takes longer than the rest of a report.
    """
    signs, known = _orders(ratings)
    untied = (signs != 0).astype(float) @ known.T
    return _safe_divide(signs @ signs.T, np.sqrt(untied * untied.T))


def row_taus(ratings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of `ratings` and the same row of `others`, all finite; NaN as in `tau_matrix`."""
    (one, _), (other, _) = _orders(ratings), _orders(others)
    untied = ((signs != 0).sum(axis=1) for signs in (one, other))
    return _safe_divide((one * other).sum(axis=1), np.sqrt(np.prod([*untied], axis=0, dtype=float)))


def _orders(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each rater and each two items, which is rated higher (1, 0, -1), and whether both are rated."""
    one, other = np.triu_indices(ratings.shape[1], 1)
    differences = ratings[:, one] - ratings[:, other]
    known = np.isfinite(differences)
    return np.sign(np.where(known, differences, 0.0)), known.astype(float)


def _safe_divide(shares: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(shares, wholes, out=np.full(wholes.shape, np.nan), where=wholes > 0)
