"""Feature-guided gradient backpropagation."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Finite
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import ProductForm, unit
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, Images, RawMaps
from sfam_bench.explainers.shared.forms import differentiating, gradients
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class FGGB(Checked):
    """sum_k (w_k - t / D) |de_k/dx| / norm, w_k the share of dimension k; Lu, Xu, Ebrahimi, FG 2024 (arXiv 2403.04549).

    e is the embedding on the scale of the score: of length one where the score is of unit vectors. The magnitude of
    each gradient is averaged over colours and divided by its length over all pixels, so that only the weights decide
    how much a dimension counts. Positive values argue for accepting the pair, negative ones for rejecting it.

    threshold: t, the score from which a pair is accepted, spread evenly over the D dimensions.
    """

    card: ClassVar[Card] = Card(
        expensive=True,
        identities=(
            "a threshold subtracts itself times the mean of the scaled gradients",
            "without a threshold the map of a margin is the positive's map minus the negative's",
        ),
        degenerate=(
            "gradients count by magnitude: in a dimension that argues for the pair, every pixel that changes it does",
            "for negative Euclidean distance all shares are negative, and so is the map without a threshold",
        ),
    )

    threshold: Finite = 0.0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        weights = torch.full_like(query.embeddings, -self.threshold / query.embeddings.shape[1])
        for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms):
            weights = weights + slope * model.similarity.split(query.embeddings, reference.embeddings)
        images = query.images
        return torch.cat(
            [weighted_gradients(model, images[some], weights[some]) for some in chunks(len(images), images)]
        )


def weighted_gradients(model: SimilarityModel, images: Images, weights: Embeddings) -> RawMaps:
    """sum_k weights_k |de_k/dx|, each gradient of length one over the pixels; a backward pass for each dimension."""
    with differentiating(model):
        leaf = images.detach().clone().requires_grad_()
        embeddings = model(leaf)
        if isinstance(model.similarity, ProductForm) and model.similarity.by_length:
            embeddings = unit(embeddings)
        total = torch.zeros_like(images[:, 0])
        for dimension, weight in zip(embeddings.unbind(dim=1), weights.unbind(dim=1), strict=True):
            size = gradients(dimension.sum(), [leaf], again=True)[0].abs().mean(dim=1)
            total += weight[:, None, None] * unit(size.flatten(1)).view_as(size)
    return total
