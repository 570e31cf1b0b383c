"""Explain, measure, draw and compare pairs of images, without a config: for notebooks and scripts."""

from sfam_bench.api.comparison import Comparison, compare
from sfam_bench.api.explanation import Explanation, save_explanations
from sfam_bench.api.maps import explain, show
from sfam_bench.api.models import default_model
from sfam_bench.api.ranked import explain_ranking, save_ranking
from sfam_bench.api.values import METRICS, evaluate, score

__all__ = [
    "METRICS",
    "Comparison",
    "Explanation",
    "compare",
    "default_model",
    "evaluate",
    "explain",
    "explain_ranking",
    "save_explanations",
    "save_ranking",
    "score",
    "show",
]
