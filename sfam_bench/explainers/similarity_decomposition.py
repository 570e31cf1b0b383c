"""The exact split of the similarity over positions."""

from dataclasses import dataclass

from sfam_bench.explainers.forms import contributions, direction
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.types import RawMaps


@dataclass(frozen=True)
class SimilarityDecomposition:
    """m_ij = sum_k A_k,ij ds/dA_k,ij with norms held constant; sums to the score less the head's bias term.

    Without a head under GAP and cosine this is Stylianou et al. (WACV 2019) and Zhu, Yang, Chen (TIP 2021) without
    rectification. For the negative squared Euclidean distance each image carries its own side of the score.
    """

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return contributions(model, encoded.query, direction(model, encoded)).sum(dim=1)
