"""Score-CAM on an embedding target."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.maps import upsample
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.targets import score
from sfam_bench.core.types import Activations, RawMaps, Weights
from sfam_bench.engine.series import Masked, SoftMasks
from sfam_bench.explainers.shared.forms import channel_scores, combine
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class ScoreCAM(Checked):
    """sum_k softmax_k(s(X * H_k)) A_k, H_k channel k scaled to [0, 1]; Wang et al., CVPRW 2020, definitions 2 and 3.

    The score of the baseline is the same for every channel and cancels in the softmax.

    space: of X. "image" is the paper's: masks are enlarged to the image, hidden pixels are black, and each channel and
        pair takes a forward pass; "cut" masks the activations, with a pass of the embedder for each.
    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        degenerate=(
            "on a bounded score the softmax is nearly flat, and the map nearly the channel mean, blind to the pair",
        ),
    )

    space: Literal["cut", "image"] = "cut"
    relu: bool = True

    def forwards(self, query: Side) -> int:
        """One for each channel where images are masked."""
        return query.activations.shape[1] if self.space == "image" else 0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        scores = mask_images(model, encoded) if self.space == "image" else mask_activations(model, encoded)
        return combine(scores.softmax(dim=1), activations, self.relu)


def mask_activations(model: SimilarityModel, encoded: Encoded) -> Weights:
    """The scores of the activations masked by each of their channels."""
    activations = encoded.query.activations
    masks = channel_masks(activations)

    def mask(pair: Tensor, channel: Tensor) -> Activations:
        return activations[pair] * masks[pair, channel][:, None]

    return channel_scores(model, encoded, mask)


def mask_images(model: SimilarityModel, encoded: Encoded, chosen: Int[Tensor, "batch some"] | None = None) -> Weights:
    """The scores of the query masked by each of its channels, or by the `chosen` channels of each pair."""
    query = encoded.query
    activations = query.activations
    if chosen is not None:
        activations = activations.gather(1, chosen[:, :, None, None].expand(-1, -1, *activations.shape[2:]))

    def masks(pair: int, first: int, last: int) -> SoftMasks:
        channels = upsample(activations[pair, first:last], (query.images.shape[-2], query.images.shape[-1]))
        return channel_masks(channels[None])[0].to(query.images)

    count, black = activations.shape[1], torch.zeros_like(query.images[0])
    series = ((pair, Masked(image, black, partial(masks, pair), count)) for pair, image in enumerate(query.images))
    scores = []
    for pair, embeddings in encoded.passes(series):
        rows = torch.full((count,), pair, device=embeddings.device)
        scores.append(score(model.similarity, embeddings, encoded.terms, rows))
    return torch.stack(scores)


def channel_masks(activations: Activations) -> Activations:
    """Each channel scaled to [0, 1] over its positions; a constant one becomes zero."""
    low, high = activations.amin(dim=(2, 3), keepdim=True), activations.amax(dim=(2, 3), keepdim=True)
    return torch.where(high == low, 0, (activations - low) / (high - low))
