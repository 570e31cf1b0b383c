"""ProtoShotXAI: the change of the similarity to a prototype behind a square around each position."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Share
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.masking import scores_behind
from sfam_bench.explainers.shared.windows import centred_windows
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class ProtoShotXAI(Checked):
    """s - s_i, s_i the score with a square around position i hidden; Hess, Ditzler, JMLR 2023 (arXiv 2110.11597).

    The paper's score is the cosine of the query's features with the mean of the supports', each weighted by the weights
    of a class where the network is a classifier. Here it is the target: with supports as the reference, the similarity
    to their prototype. The authors hide a square around every pixel; the grid has fewer, since squares overlap. They
    fill it with the colour of the first pixel, as that of the background.

    window: side of the square as a share of the image's shorter side; 8 pixels at 224 in the paper's code, 12 at 84 in
        that of C3A, which compares with it.
    grid: positions along each side, at most one for each pixel.
    baseline: replaces hidden pixels.
    """

    card: ClassVar[Card] = Card(
        identities=("on an additive score it is the sum of the contributions of the pixels in each square",),
        degenerate=("squares that are smaller than the gaps between positions leave pixels that are never hidden",),
    )

    window: Share = 0.143
    grid: Count = 16
    baseline: BaselineName = "mean_colour"

    def forwards(self, query: Side) -> int:
        """One for each position, and one for the query."""
        return len(centred_windows(query.images, self.grid, self.window))

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        windows = centred_windows(images, self.grid, self.window)
        scores = torch.stack(scores_behind(model, encoded, [windows] * len(images), self.baseline))
        return (scores[:, :1] - scores[:, 1:]).view(-1, len(windows.rows), len(windows.cols)).to(images)
