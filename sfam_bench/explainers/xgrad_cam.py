"""XGrad-CAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class XGradCAM:
    """sum_k (sum_ij ds/dA_k,ij A_k,ij / sum_ij A_k,ij) A_k; Fu et al., BMVC 2020.

    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("without `relu` the map sums to HiResCAM's sum", "under GAP it is Grad-CAM"),
        degenerate=("a channel whose activations sum to zero has weight zero",),
    )

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        total = activations.sum(dim=(2, 3))
        weights = (target_gradient(model, encoded) * activations).sum(dim=(2, 3)) / total
        return combine(torch.where(total == 0, 0, weights), activations, self.relu)
