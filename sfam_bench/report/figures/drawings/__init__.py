"""The figures of a paper, out of stored runs; each gives its matplotlib Figure when it is called with them."""

from sfam_bench.report.figures.drawings.cost import CostFaithfulness
from sfam_bench.report.figures.drawings.curves import Curves
from sfam_bench.report.figures.drawings.failures import Failures
from sfam_bench.report.figures.drawings.means import AlongField, Means
from sfam_bench.report.figures.drawings.pairs import PairPanels
from sfam_bench.report.figures.drawings.parts import PartHeat
from sfam_bench.report.figures.drawings.ranks import CriticalDifference, MetricAgreement
from sfam_bench.report.figures.style import save

__all__ = [
    "AlongField",
    "CostFaithfulness",
    "CriticalDifference",
    "Curves",
    "Failures",
    "Means",
    "MetricAgreement",
    "PairPanels",
    "PartHeat",
    "save",
]
