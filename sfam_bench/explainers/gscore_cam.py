"""gScoreCAM: Score-CAM on the channels with the greatest gradients."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Share
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.score_cam import mask_images
from sfam_bench.explainers.shared.forms import combine, target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class GScoreCAM(Checked):
    """sum_k softmax_k(s(X * H_k)) A_k over the channels with the greatest mean ds/dA_k; Chen et al., ACCV 2022.

    The authors' code gives the other channels a score of 0 in the softmax. Beside the scores of CLIP, which are some
    20 to 30, their weights vanish; beside a cosine they would be larger than those of the chosen channels, so that
    here they have none. A channel that is the same everywhere masks nothing and is not chosen. As in Score-CAM hidden
    pixels are black.

    share: of the channels that are scored, each with a forward pass; the authors' 300 are a tenth of CLIP's.
    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("with all channels, if all of them vary, it is Score-CAM on masked images",),
        degenerate=(
            "on a bounded score the softmax is nearly flat: the map is nearly the mean of the chosen channels",
        ),
    )

    share: Share = 0.1
    relu: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share == 0:
            raise UserError("GScoreCAM.share is 0: choose a share of the channels such as 0.1")

    def forwards(self, query: Side) -> int:
        """One for each channel that is scored."""
        return ceil(self.share * query.activations.shape[1])

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        sensitivity = target_gradient(model, encoded).mean(dim=(2, 3))
        varies = activations.amax(dim=(2, 3)) > activations.amin(dim=(2, 3))
        chosen = torch.where(varies, sensitivity, -torch.inf).topk(self.forwards(encoded.query), dim=1).indices
        scores = mask_images(model, encoded, chosen)
        usable = varies.gather(1, chosen)  # not all, where fewer channels vary
        shares = torch.where(usable, scores, -torch.inf).softmax(dim=1).to(sensitivity)
        weights = torch.zeros_like(sensitivity).scatter_(1, chosen, torch.where(usable, shares, 0))
        return combine(weights, activations, self.relu)
