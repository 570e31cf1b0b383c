"""The exact decomposition of the similarity over positions."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import contributions, direction
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class SimilarityDecomposition:
    """sum_k A_k,ij ds/dA_k,ij with norms held constant, the exact decomposition of the score; derived.

    For the negative squared Euclidean distance, (e' - e) . e + (e - e') . e', the query's map sums to the first term,
    and the reference's map to the second.
    """

    card: ClassVar[Card] = Card(
        total="score",
        identities=(
            "without a head under GAP and cosine it is Stylianou's map and Zhu's without rectification",
            "the margin map is the positive's map minus the negative's",
        ),
        degenerate=(
            "with an MLP head or an early cut it is the linear approximation at the query, and leaves a residual",
        ),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return contributions(model, encoded.query, direction(model, encoded)).sum(dim=1)
