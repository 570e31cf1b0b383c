"""Means with intervals that account for classes, comparisons with the best, and paired comparisons."""

from sfam_bench.statistics.comparisons import (
    FEW_CLASSES,
    LEVEL,
    Comparison,
    compare_with_best,
    holm,
    rank_biserial,
    sign_flip_p,
)
from sfam_bench.statistics.intervals import Interval, clustered_bootstrap, clustered_intervals
from sfam_bench.statistics.matrices import (
    FACTS,
    NO_REASON,
    PAIR,
    RUN,
    Matrix,
    area_errors,
    exclusion_reasons,
    matrices,
)
from sfam_bench.statistics.summaries import NOT_COMPARED, paired_difference, summarise

__all__ = [
    "FACTS",
    "FEW_CLASSES",
    "LEVEL",
    "NOT_COMPARED",
    "NO_REASON",
    "PAIR",
    "RUN",
    "Comparison",
    "Interval",
    "Matrix",
    "area_errors",
    "clustered_bootstrap",
    "clustered_intervals",
    "compare_with_best",
    "exclusion_reasons",
    "holm",
    "matrices",
    "paired_difference",
    "rank_biserial",
    "sign_flip_p",
    "summarise",
]
