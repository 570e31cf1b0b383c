"""Integrated gradients on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.pixels import mean_gradient
from sfam_bench.explainers.shared.quadrature import Quadrature, nodes
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class IntegratedGradients(Checked):
    """sum_c (x - x')_c int_0^1 ds/dx_c (x' + t (x - x')) dt; Sundararajan et al., ICML 2017, eq. 1.

    steps: gradients for each pair.
    baseline: the image x' without content; black in the paper.
    quadrature: where on the path the gradients are taken; the paper's sum is "right".
    """

    card: ClassVar[Card] = Card(
        total="change",
        identities=(
            "the map sums to the score less the score of the baseline, up to the quadrature",
            "in one step from black by the right end it is input x gradient",
        ),
        degenerate=(
            "a pixel of the baseline's colour gets zero",
            "normalised embeddings change fast near the baseline, so that few steps leave a large residual",
        ),
    )

    steps: Count = 32
    baseline: BaselineName = "zeros"
    quadrature: Quadrature = "midpoint"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        start = BASELINES[self.baseline](images)
        at, weights = nodes(self.quadrature, self.steps, images)
        gradient = mean_gradient(
            model, encoded, weights, lambda pair, n: start[pair].lerp(images[pair], at[n][:, None, None, None])
        )
        return ((images - start) * gradient).sum(dim=1)
