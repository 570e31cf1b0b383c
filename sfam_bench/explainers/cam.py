"""Class activation mapping with a reference in place of a class."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import channel_form, combine, direction
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class CAM:
    """sum_k w_k A_k, w the reference mapped back to the channels in place of class weights; Zhou et al., CVPR 2016.

    Norms are held constant. For the negative squared Euclidean distance the query's own embedding is subtracted from
    the reference, since -|e - e'|^2 = (e' - e) . e + (e - e') . e' and this is the query's side.

    relu: drop the negative part of the map, which the paper does not.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "under GAP it is N times the similarity decomposition",
            "for cosine and dot it is SFAM with gamma 0",
            "on the dot product of raw embeddings under GAP it is N times Grad-CAM without its ReLU",
            "the margin map is the positive's map minus the negative's",
        ),
        degenerate=(
            "with another pooling than GAP the map shows the activations, not what pooling passes on, and does not sum "
            "to N times the score",
        ),
    )

    relu: bool = False

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        weights, _ = channel_form(model, encoded.query, direction(model, encoded))
        return combine(weights, encoded.query.activations, self.relu)
