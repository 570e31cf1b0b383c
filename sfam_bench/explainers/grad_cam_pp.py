"""Grad-CAM++ on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import NotNegative
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import Activations, RawMaps
from sfam_bench.explainers.shared.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class GradCAMPlusPlus(Checked):
    """sum_k (sum_ij alpha_k,ij relu(G_k,ij)) A_k, G = ds/dA; Chattopadhay et al., WACV 2018, eq. 19.

    alpha = G^2 / (2 G^2 + sum_ij(A) G^3). The paper's class score exp(s) adds a constant factor exp(s), which is left
    out.

    epsilon: added to the denominator; null makes alpha scale-invariant, pytorch-grad-cam has 1e-6.
    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        degenerate=(
            "where sum_ij(A) G is small, as under cosine, alpha approaches 1/2, and under GAP the map half of "
            "LayerCAM's",
            "an epsilon of 1e-6, as in pytorch-grad-cam, exceeds the squares of these gradients and dominates the map",
        ),
    )

    epsilon: NotNegative | None = None
    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        gradient, activations = target_gradient(model, encoded), encoded.query.activations
        weights = (alpha(gradient, activations, self.epsilon) * gradient.relu()).sum(dim=(2, 3))
        return combine(weights, activations, self.relu)


def alpha(gradient: Activations, activations: Activations, epsilon: float | None) -> Activations:
    """The share of each position in its channel's weight, zero where the gradient or the denominator is."""
    # numerator and denominator divided by G^2, which may underflow
    denominator = 2 + activations.sum(dim=(2, 3), keepdim=True) * gradient
    if epsilon is not None:
        denominator = denominator + epsilon / gradient.square()
    return torch.where((gradient == 0) | (denominator == 0), 0, 1 / denominator)
