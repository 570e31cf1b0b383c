"""XGrad-CAM on an embedding target."""

from dataclasses import dataclass

import torch

from sfam_bench.explainers.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.types import RawMaps


@dataclass(frozen=True)
class XGradCAM:
    """sum_k (sum_ij ds/dA_k,ij A_k,ij / sum_ij A_k,ij) A_k; Fu et al., BMVC 2020.

    A channel whose activations sum to zero weighs nothing; without `relu` the map sums to HiResCAM's sum.
    """

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        total = activations.sum(dim=(2, 3))
        weights = (target_gradient(model, encoded) * activations).sum(dim=(2, 3)) / total
        maps = combine(torch.where(total == 0, 0, weights), activations)
        return maps.relu() if self.relu else maps
