"""Does a map add up to the score?"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import NotNegative
from sfam_bench.metrics.shared.base import Explained, Measured, defined


@dataclass(frozen=True)
class Completeness(Checked):
    """|sum of the map as the method returned it - what it explains| / |score|; Sundararajan et al., ICML 2017.

    0 is a map that splits the score over positions without rest. It is measured of every method: one whose card names
    no total is not wrong to miss it, but its map is then no split of the score, and the value says by how much; a
    method that leaves its scale open (a channel sum instead of a mean) can be as far off as it likes and rank pixels as
    well. The maps of all other metrics are rescaled first; this one is not.

    baseline: what the explained change is from, as for integrated gradients; null for the score itself.
    min_score: |score| under which the quotient is undefined, in units of the score.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = False

    baseline: Baseline | None = None
    min_score: NotNegative = 0.05

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(0, inf),
            degenerate=(
                "a method's own scale decides, where it claims no total",
                "a bias in the head is no position's",
            ),
            group="Complexity and completeness",
            label=label("completeness", f"from {self.baseline.name}" if self.baseline else ""),
            meaning="what the map's sum misses of the similarity, as a share of it",
            family="completeness",
            baseline=self.baseline.name if self.baseline else None,
        )

    def __call__(self, explained: Explained) -> Measured:
        score = explained.scene.full()
        reasons = {"zero_score": score.abs() < self.min_score}
        if explained.raw is None:
            missing = torch.ones_like(score, dtype=torch.bool)
            return Measured(torch.full_like(score, torch.nan), {"no_raw_map": missing, **reasons})
        reasons = {"nonfinite_map": ~explained.raw.flatten(1).isfinite().all(dim=1), **reasons}
        total = score if self.baseline is None else score - explained.scene.base(self.baseline)
        residual = (explained.raw.double().sum(dim=(1, 2)) - total).abs() / score.abs()
        return defined(residual.to(score.dtype), reasons)
