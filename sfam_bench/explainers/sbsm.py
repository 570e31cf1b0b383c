"""Similarity-based saliency maps: a sliding window hides parts of the query."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Share
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import scores_behind
from sfam_bench.explainers.shared.windows import Windows, pixels
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class SBSM(Checked):
    """mean of max(0, s - s_n) over the windows n that cover the pixel, s_n with n hidden; Dong et al., CVPRW 2019.

    Windows are placed as in xaitk-saliency: one every stride, centred on the image as a whole, clipped at its edges.

    window: side of the window as a share of the image's; 50 pixels at 224.
    stride: from one window to the next, as a share of the image's sides; 20 pixels at 224.
    baseline: replaces the pixels of the window.
    relu: count decreases of the score alone; without it the map is signed.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("on an additive score the decrease of each window is the sum of the contributions of its pixels",),
        degenerate=("where the baseline is more similar to the reference than the hidden pixels, the map is zero",),
    )

    window: Share = 0.223
    stride: Share = 0.089
    baseline: BaselineName = "zeros"
    relu: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("window", "stride"):
            if not 0 < getattr(self, field) <= 1:
                raise UserError(f"SBSM.{field} is {getattr(self, field)}: expected a share of the image's side")

    def _windows(self, query: Side) -> Windows:
        sides = query.images.shape[-2:]
        rows, cols = (cover_axis(side, pixels(self.window, side), pixels(self.stride, side)) for side in sides)
        return Windows(rows, cols)

    def forwards(self, query: Side) -> int:
        """One for each window, and one for the query."""
        return len(self._windows(query))

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images, windows = encoded.query.images, self._windows(encoded.query)
        scores = torch.stack(scores_behind(model, encoded, [windows] * len(images), self.baseline)).cpu()
        drops = scores[:, :1] - scores[:, 1:]
        drops = (drops.relu() if self.relu else drops).view(len(images), len(windows.rows), len(windows.cols))
        counts = windows.rows.sum(dim=0)[:, None] * windows.cols.sum(dim=0)
        return (windows.rows.T @ drops @ windows.cols / counts.clamp_min(1)).to(images)


def cover_axis(side: int, window: int, stride: int) -> Float[Tensor, "windows side"]:
    """1 inside each window of one axis; the overhang of the last window is shared between both ends."""
    firsts = torch.arange(0, side, stride)
    firsts = firsts - (window - (side - int(firsts[-1]))) // 2
    places = torch.arange(side)
    return ((firsts[:, None] <= places) & (places < firsts[:, None] + window)).double()
