"""Grad-CAM on an embedding target."""

from dataclasses import dataclass

from sfam_bench.explainers.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.types import RawMaps


@dataclass(frozen=True)
class GradCAM:
    """sum_k (mean_ij ds/dA_k,ij) A_k, the target s in place of a class score; Selvaraju et al., ICCV 2017, eq. 1 and 2.

    On cosine under GAP and a bias-free head the map sums to zero before `relu`, and degenerates as s nears 1.
    """

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        weights = target_gradient(model, encoded).mean(dim=(2, 3))
        maps = combine(weights, encoded.query.activations)
        return maps.relu() if self.relu else maps
