"""Grad-CAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class GradCAM:
    """sum_k (mean_ij ds/dA_k,ij) A_k, the target s in place of a class score; Selvaraju et al., ICCV 2017, eq. 1 and 2.

    relu: drop the negative part of the map, as the paper does.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=(
            "on the dot product under GAP and a bias-free head it is the similarity decomposition",
            "under GAP it equals HiResCAM and XGrad-CAM after their ReLU",
        ),
        degenerate=(
            "on cosine under GAP and a bias-free head the map sums to zero before ReLU, so that ReLU keeps only "
            "positions that contribute more than the average; the whole map approaches zero as the cosine approaches 1",
        ),
    )

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        weights = target_gradient(model, encoded).mean(dim=(2, 3))
        return combine(weights, encoded.query.activations, self.relu)
