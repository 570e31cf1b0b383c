"""Input times gradient on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.pixels import mean_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class InputXGradient:
    """sum_c x_c ds/dx_c at the pixels x in [0, 1]; Shrikumar et al., arXiv 1605.01713, 2016.

    A first-order estimate of the contribution of each pixel relative to a black image.
    """

    card: ClassVar[Card] = Card(
        identities=("on cosine behind a network without biases that reads black as zero the map sums to zero",),
        degenerate=(
            "a black pixel gets zero, whatever its effect",
            "single gradients of deep networks are noisy",
        ),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        gradient = mean_gradient(model, encoded, torch.ones_like(images[0, 0, 0, :1]), lambda pair, _: images[pair])
        return (images * gradient).sum(dim=1)
