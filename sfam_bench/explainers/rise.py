"""RISE on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import GridMethod, MaskedScores, SumMasks


@dataclass(frozen=True)
class RISE(GridMethod):
    """sum_n (s_n - mean s) M_n / (keep N), s_n the score with mask M_n; Petsiuk et al., BMVC 2018, eq. 6.

    The paper uses 4000 to 8000 masks. Here there are fewer, the same as for Distance Explainer and RELAX, so that the
    three methods share their forward passes. The paper sets hidden pixels to zero after standardisation, which is the
    mean colour of ImageNet; here they get the mean colour of the image.

    masks: number of masks, each of which takes one forward pass.
    grid: number of cells along each side of a mask.
    keep: probability that a cell is kept.
    seed: of the random masks, together with the query's id.
    baseline: what replaces hidden pixels.
    standard_error: end with fewer masks once the map's is this small (`GridMethod`); None for all masks.
    subtract_mean: subtract the mean score first. The paper does not: class probabilities are mostly near zero. Cosines
        are near one, so that without it the map is mostly the random sum of the masks.
    """

    card: ClassVar[Card] = Card(
        identities=("with `subtract_mean` it is the covariance of score and mask over all masks, divided by `keep`",),
        degenerate=("without `subtract_mean` the map mostly shows how often each pixel was kept",),
    )

    subtract_mean: bool = True

    def estimate(self, scores: MaskedScores, add: SumMasks) -> RawMaps:
        target = scores.target
        if self.subtract_mean:
            target = target - target.mean(dim=1, keepdim=True)
        (maps,) = add(target / (self.keep * target.shape[1]))
        return maps
