"""RISE on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import GridMethod, masked_scores, sum_masks
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class RISE(GridMethod):
    """sum_n (s_n - mean s) M_n / (keep N), s_n the score behind mask M_n; Petsiuk et al., BMVC 2018, eq. 6.

    The paper uses 4000 to 8000 masks; here they are those of Distance Explainer and RELAX, which share their passes.
    The paper replaces pixels by zero after standardisation, to which the mean colour is closest.

    masks: number of masks and of forward passes.
    grid: cells a side of a mask.
    keep: probability that a cell is kept.
    seed: of the masks, together with the query's id.
    baseline: replaces hidden pixels.
    subtract_mean: subtract the mean score first; the paper does not, but class probabilities are near zero and cosines
        near one, so that without it the map is mostly the random sum of the masks.
    """

    card: ClassVar[Card] = Card(
        identities=("with `subtract_mean` it is the covariance of score and mask over the masks, divided by keep",),
        degenerate=("without `subtract_mean` the map mostly shows how often each pixel was kept",),
    )

    subtract_mean: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        masking = self.grids
        scores = masked_scores(model, encoded, pairs, masking, self.baseline).target
        if self.subtract_mean:
            scores = scores - scores.mean(dim=1, keepdim=True)
        (maps,) = sum_masks(masking, pairs, encoded.query.images, scores / (self.keep * self.masks))
        return maps.to(encoded.query.images)
