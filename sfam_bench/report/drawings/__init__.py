"""The figures of a paper, out of stored runs; each gives its matplotlib Figure when it is called with them."""

from sfam_bench.report.drawings.cost import CostFaithfulness
from sfam_bench.report.drawings.curves import Curves
from sfam_bench.report.drawings.failures import Failures
from sfam_bench.report.drawings.means import Means, Sweep
from sfam_bench.report.drawings.pairs import PairPanels
from sfam_bench.report.drawings.parts import PartHeat
from sfam_bench.report.drawings.ranks import CriticalDifference, MetricAgreement
from sfam_bench.report.style import save

__all__ = [
    "CostFaithfulness",
    "CriticalDifference",
    "Curves",
    "Failures",
    "Means",
    "MetricAgreement",
    "PairPanels",
    "PartHeat",
    "Sweep",
    "save",
]
