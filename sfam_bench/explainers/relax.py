"""RELAX: the query explained by itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import GridMethod, MaskedScores, SumMasks


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
    standard_error: end with fewer masks once the map's is this small (`GridMethod`); None for all masks.
    """

    card: ClassVar[Card] = Card(
        control=True,
        reads_reference=False,
        identities=("it uses RISE's masks and passes, and no others",),
        degenerate=("a weighted mean of cosines is nearly flat: its differences are small",),
    )

    def estimate(self, scores: MaskedScores, add: SumMasks) -> RawMaps:
        maps, kept = add(scores.itself, torch.ones_like(scores.itself))
        return torch.where(kept > 0, maps / kept, 0)  # a pixel that no mask kept
