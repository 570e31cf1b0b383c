"""RELAX: the query explained by itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import GridMethod, masked_scores, sum_masks
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class RELAX(GridMethod):
    """sum_n cos(h(x), h(x M_n)) M_n / sum_n M_n, h the embedding; Wickstroem et al., IJCV 2023.

    A negative control: it ignores the reference. The paper uses 3000 masks of 7 x 7 cells; here they are RISE's, to
    share passes.

    masks: number of masks and of forward passes.
    grid: number of cells along each side of a mask.
    keep: probability that a cell is kept.
    seed: of the masks, together with the query's id.
    baseline: replaces hidden pixels; the paper's is zero after standardisation.
    """

    card: ClassVar[Card] = Card(
        control=True,
        reads_reference=False,
        identities=("it uses RISE's masks and passes, and no others",),
        degenerate=("a weighted mean of cosines is nearly flat: its differences are small",),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        masking, images = self.grids, encoded.query.images
        scores = masked_scores(model, encoded, pairs, masking, self.baseline).itself
        maps, kept = sum_masks(masking, pairs, images, scores, torch.ones_like(scores))
        return torch.where(kept > 0, maps / kept, 0).to(images)  # a pixel that no mask kept
