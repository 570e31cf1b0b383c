"""Score-CAM on an embedding target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfam_bench.explainers.forms import channel_scores, combine
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.types import Activations, RawMaps


@dataclass(frozen=True)
class ScoreCAM:
    """sum_k softmax_k(s(A * H_k)) A_k, H_k channel k scaled to [0, 1]; Wang et al., CVPRW 2020, definitions 2 and 3.

    Masks are applied to the activations; the image-space definition follows. The score of the baseline, the same for
    every channel, drops out of the softmax. Costs one pass of the embedder a channel and pair. On a bounded score the
    softmax is nearly flat, and the map nearly the channel mean, which ignores the reference.
    """

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        masks = channel_masks(activations)

        def masked(pair: Tensor, channel: Tensor) -> Activations:
            return activations[pair] * masks[pair, channel][:, None]

        maps = combine(channel_scores(model, encoded, masked).softmax(dim=1), activations)
        return maps.relu() if self.relu else maps


def channel_masks(activations: Activations) -> Activations:
    """Each channel scaled to [0, 1] over its positions; a constant one, which masks nothing, becomes zero."""
    low, high = activations.amin(dim=(2, 3), keepdim=True), activations.amax(dim=(2, 3), keepdim=True)
    return torch.where(high == low, 0, (activations - low) / (high - low))
