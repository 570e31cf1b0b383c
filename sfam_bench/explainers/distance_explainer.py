"""Distance Explainer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Share
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import GridMethod, MaskedScores, MaskScores, SumMasks

ROUNDING = 1e-9  # 0.29 of 100 is 29
OneEach = Float[Tensor, "batch 1"]


@dataclass(frozen=True)
class DistanceExplainer(GridMethod):
    """mean of the masks with the highest scores - mean of those with the lowest; Meijer, Bos, arXiv 2505.15516.

    The authors' package multiplies the image by the mask before standardising, which is `baseline` zeros.

    masks: number of masks and of forward passes.
    grid: number of cells along each side of a mask.
    keep: probability that a cell is kept.
    seed: of the masks, together with the query's id.
    baseline: replaces hidden pixels; mean_colour, so that passes are shared with RISE.
    standard_error: end with fewer masks once the map's is this small (`GridMethod`); None for all masks.
    nearest, farthest: share of the masks on each side; 0 leaves a side out.
    softness: masks whose score is within this share of the range of scores from the edge of a side count in part, so
        that rounding does not move a whole mask across it; the authors' code has 0.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "without `softness` it is invariant to increasing transformations of the scores",
            "the two one-sided maps add up to it",
        ),
        degenerate=("with one side alone the map mostly shows how often each pixel was kept",),
    )

    nearest: Share = 0.1
    farthest: Share = 0.1
    softness: Share = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for side in ("nearest", "farthest"):
            share = getattr(self, side)
            if share and not int(share * self.masks + ROUNDING):
                raise UserError(f"DistanceExplainer.{side} is {share}: expected 0, or a share of at least one mask")
        if self.nearest == self.farthest == 0:
            raise UserError("DistanceExplainer.nearest and farthest are both 0: the map would be zero; choose a share")
        if not 0 <= self.softness <= 1:
            raise UserError(f"DistanceExplainer.softness is {self.softness}: expected a share, such as 0.01")

    def estimate(self, scores: MaskedScores, add: SumMasks) -> RawMaps:
        target = scores.target
        weights = torch.zeros_like(target)
        for sign, share in ((1, self.nearest), (-1, self.farthest)):
            if share:
                count = max(1, int(share * target.shape[1] + ROUNDING))
                weights = weights + sign * highest(sign * target, count, self.softness) / count
        (maps,) = add(weights)
        return maps


def highest(scores: MaskScores, count: int, softness: float) -> MaskScores:
    """1 for the `count` highest scores of each row and 0 for the others, with a slope between; sums to `count`.

    The slope is twice `softness` of the range of scores wide; its centre is found by bisection.
    """
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    # a minimal slope, so that ties count equally without softness too
    reach = (softness * (high - low)).clamp_min(1e-12 * scores.abs().amax()).clamp_min(torch.finfo(scores.dtype).tiny)
    low, high = low - reach, high + reach
    for _ in range(100):
        edge = (low + high) / 2
        many = slope(scores, edge, reach).sum(dim=1, keepdim=True) > count
        low, high = torch.where(many, edge, low), torch.where(many, high, edge)
    return slope(scores, high, reach)


def slope(scores: MaskScores, edge: OneEach, reach: OneEach) -> MaskScores:
    """0 below the edge and 1 above it, linear within `reach`."""
    return ((scores - edge) / (2 * reach) + 0.5).clamp(0, 1)
