"""HiResCAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class HiResCAM:
    """sum_k ds/dA_k,ij A_k,ij, no average over positions; Draelos, Carin, arXiv 2011.08891.

    relu: drop the negative part of the map, as pytorch-grad-cam does and the paper does not.
    """

    card: ClassVar[Card] = Card(
        identities=("under GAP it is Grad-CAM without the ReLU",),
        degenerate=("on cosine under GAP and a bias-free head the map sums to zero",),
    )

    relu: bool = False

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        maps = (target_gradient(model, encoded) * encoded.query.activations).sum(dim=1)
        return maps.relu() if self.relu else maps
