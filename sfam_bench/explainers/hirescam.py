"""HiResCAM on an embedding target."""

from dataclasses import dataclass

from sfam_bench.explainers.forms import target_gradient
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.types import RawMaps


@dataclass(frozen=True)
class HiResCAM:
    """sum_k ds/dA_k,ij A_k,ij, no average over positions; Draelos, Carin, arXiv 2011.08891.

    The paper's sum has no ReLU (pytorch-grad-cam applies one); under GAP it is Grad-CAM without the ReLU.
    """

    relu: bool = False

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        maps = (target_gradient(model, encoded) * encoded.query.activations).sum(dim=1)
        return maps.relu() if self.relu else maps
