"""Means with intervals that account for classes, comparisons with the best, and paired comparisons."""
# ruff: noqa: F401  re-exports

from sfam_bench.runs.matrix import FACTS, RUN, Matrix, area_errors
from sfam_bench.statistics.comparisons import FEW_CLASSES, LEVEL, compare_with_best, holm, sign_flip_p
from sfam_bench.statistics.intervals import clustered_intervals
from sfam_bench.statistics.summaries import NOT_COMPARED, paired_difference, plain_means, summarise
