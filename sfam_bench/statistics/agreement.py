"""Do raters order the same things alike? Ranks, Friedman and Nemenyi, Kendall's W and tau, Krippendorff's alpha."""

from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
from scipy import stats

from sfam_bench.core.errors import UserError

FEWEST = 3  # things that Friedman's test can order


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of the columns over the complete rows, 1 is best, and whether they differ at all."""

    ranks: np.ndarray
    blocks: int
    statistic: float  # Friedman's chi square, corrected for ties; NaN for fewer than three columns
    p: float
    critical_difference: float  # of mean ranks: Nemenyi


def ranking(scores: np.ndarray, level: float = 0.05) -> Ranking:
    """Rank the columns within each row, greater is better, ties share their mean rank (Demšar, JMLR 2006)."""
    complete = scores[np.isfinite(scores).all(axis=1)]
    blocks, columns = complete.shape
    if not blocks or columns < 2:
        raise UserError("ranks need two explainers and one pair that none of them has flagged")
    ranks = stats.rankdata(-complete, axis=1)
    statistic, p = np.nan, np.nan
    if columns >= FEWEST and np.ptp(ranks, axis=1).any():
        statistic, p = stats.friedmanchisquare(*complete.T)
    difference = critical_difference(columns, blocks, level)
    return Ranking(ranks.mean(axis=0), blocks, float(statistic), float(p), difference)


def critical_difference(columns: int, blocks: int, level: float = 0.05) -> float:
    """Nemenyi: mean ranks closer than this cannot be told apart at `level`, all pairs of columns taken together."""
    quantile = stats.studentized_range.ppf(1 - level, columns, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(columns * (columns + 1) / (6 * blocks)))


def find_cliques(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """The longest runs of sorted `ranks` that lie within `difference`, as (first, last), of two or more."""
    ends = np.searchsorted(ranks, ranks + difference, side="right") - 1
    found: list[tuple[int, int]] = []
    for start, end in enumerate(ends.tolist()):
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


def kendall_w(ratings: np.ndarray) -> float:
    """Kendall's concordance of raters (rows) over things (columns), corrected for ties; 1 is the same order for all.

    Things that a rater leaves out (NaN) are left out for all. NaN where fewer than two of either are left, or where no
    rater tells anything apart.
    """
    ratings = ratings[:, np.isfinite(ratings).all(axis=0)]
    raters, things = ratings.shape
    if min(raters, things) < 2:
        return float("nan")
    ranks = stats.rankdata(ratings, axis=1)
    ties = sum(float((count**3 - count).sum()) for count in map(_counts, ranks))
    most = raters**2 * (things**3 - things) - raters * ties
    spread = ((ranks.sum(axis=0) - raters * (things + 1) / 2) ** 2).sum()
    return float(12 * spread / most) if most > 0 else float("nan")


def _counts(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_counts=True)[1]


def krippendorff_alpha(ratings: np.ndarray, level: Literal["nominal", "ordinal", "interval"] = "ordinal") -> float:
    """Krippendorff's alpha of raters (rows) over things (columns); NaN is a rating not given.

    1 is agreement, 0 what chance would give, below 0 is worse than that; NaN where all ratings are equal, or no thing
    has two. `level` is nominal, ordinal or interval.
    """
    rated = ratings[:, np.isfinite(ratings).sum(axis=0) > 1]
    if len(np.unique(rated[np.isfinite(rated)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(rated, level_of_measurement=level))


def tau_matrix(ratings: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each two raters (rows) over the things that both rate; NaN where one tells nothing apart.

    All at once, since one call of scipy for each two of a hundred metrics takes longer than the rest of a report.
    """
    signs, known = _orders(ratings)
    untied = (signs != 0).astype(float) @ known.T
    return _safe_divide(signs @ signs.T, np.sqrt(untied * untied.T))


def row_taus(ratings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of `ratings` with the same row of `others`, all finite; NaN as in `tau_matrix`."""
    (one, _), (other, _) = _orders(ratings), _orders(others)
    untied = ((signs != 0).sum(axis=1) for signs in (one, other))
    return _safe_divide((one * other).sum(axis=1), np.sqrt(np.prod([*untied], axis=0, dtype=float)))


def _orders(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each rater and each two things, which is rated higher (1, 0, -1), and whether both are rated."""
    one, other = np.triu_indices(ratings.shape[1], 1)
    differences = ratings[:, one] - ratings[:, other]
    known = np.isfinite(differences)
    return np.sign(np.where(known, differences, 0.0)), known.astype(float)


def _safe_divide(shares: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(shares, wholes, out=np.full(wholes.shape, np.nan), where=wholes > 0)
