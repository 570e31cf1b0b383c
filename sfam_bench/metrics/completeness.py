"""Completeness: does a map sum to the score?"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import NotNegative
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values


@dataclass(frozen=True)
class Completeness(Checked):
    """|sum of the raw map - explained score| / |score|; Sundararajan et al., ICML 2017.

    The score is the target of the unchanged pair; what is explained is that score, its linear part, or its change from
    a baseline. So a map that exceeds a small change of a large score by half of it has a small value.

    0 is a map whose values sum to the score. It is measured for every method: a method that is listed as not additive
    does not claim to sum to the score, and one with an arbitrary scale (a channel sum instead of a mean) may have any
    value and still rank pixels well. All other metrics rescale maps first; this one does not.

    baseline: of the explained change of score, as for integrated gradients; null for the score itself.
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
                "for a method that does not claim to sum to the score, the value depends on the scale of its maps",
                "a bias of the head is not attributed to any position",
            ),
            group="Complexity and completeness",
            label=label("completeness", f"from {self.baseline.name}" if self.baseline else ""),
            meaning="difference of the map's sum and the similarity, as a share of it",
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
        total = explained.scene.linear() if self.baseline is None else score - explained.scene.base(self.baseline)
        residual = (explained.raw.double().sum(dim=(1, 2)) - total).abs() / score.abs()
        return mask_values(residual.to(score.dtype), reasons)
