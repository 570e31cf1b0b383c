"""Ablation-CAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import EPS, ProductForm
from sfam_bench.core.targets import score
from sfam_bench.core.types import Activations, RawMaps, Weights
from sfam_bench.explainers.shared.forms import channel_scores, combine, derivative, differentiating
from sfam_bench.models.heads import is_affine
from sfam_bench.models.poolings import BY_CHANNEL
from sfam_bench.models.similarity_model import SimilarityModel

ROUNDING = 1e-14  # of a squared length in float32, relative


@dataclass(frozen=True)
class AblationCAM:
    """sum_k ((s - s_-k) / |s|) A_k, s_-k the score with channel k at zero; Desai, Ramaswamy, WACV 2020.

    Computed from inner products where channels are pooled separately and the head is affine; otherwise (also behind an
    early cut) by one pass of the embedder for each channel and pair.

    relative: divide by |s|, a positive factor of each map; the paper divides by s, which would invert the map where s
        is negative, as a negative distance always is.
    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("on the un-normalised dot product under GAP and an affine head, without `relative`, it is SFAM",),
        degenerate=("on cosine a channel also contributes to the norm, so that weights can be negative",),
    )

    relative: bool = True
    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        closed = has_closed_form(model) and not any(term.rivals for term in encoded.terms)
        weights = (drops_in_closed_form if closed else drops_by_passes)(model, encoded)
        if self.relative:
            size = score(model.similarity, encoded.query.embeddings, encoded.terms).abs()[:, None]
            weights = weights / torch.where(size == 0, 1, size)
        return combine(weights, encoded.query.activations, self.relu)


def drops_by_passes(model: SimilarityModel, encoded: Encoded) -> Weights:
    """s - s_-k of each channel, by definition."""
    activations = encoded.query.activations

    def without(pair: Tensor, channel: Tensor) -> Activations:
        changed = activations[pair]
        changed[torch.arange(len(pair), device=pair.device), channel] = 0
        return changed

    whole = score(model.similarity, encoded.query.embeddings, encoded.terms)
    return whole[:, None] - channel_scores(model, encoded, without)


def drops_in_closed_form(model: SimilarityModel, encoded: Encoded) -> Weights:
    """s - s_-k of each channel: before L2 the embedding e becomes e - c_k W_k, c_k the pooled change of channel k.

    So <e, r> falls by c_k <W_k, r>, |e|^2 by 2 c_k <W_k, e> - c_k^2 |W_k|^2, and scores are made of those [derived].
    """
    embedder, activations = model.embedder, encoded.query.activations
    with differentiating(model):
        pooled = embedder.pool(activations).detach()
        lost = pooled - embedder.pool(torch.zeros_like(activations[:1])).detach()
        embeddings = embedder.project(pooled).detach()
        origin = pooled.new_zeros(embeddings.shape[1], pooled.shape[1])
        head = derivative(lambda p: embedder.project(p).diagonal(), origin)  # W, a row a dimension
    # float64, since nearly equal scores are subtracted
    lost, embeddings, head = (found.double() for found in (lost, embeddings, head))
    square = embeddings.square().sum(dim=1, keepdim=True)
    square_without = square - 2 * lost * (embeddings @ head) + lost.square() * head.square().sum(dim=0)
    gone = square_without <= ROUNDING * square  # the channel was all of the embedding: what is left is rounding
    square_without = square_without.masked_fill(gone, 0)
    drops = torch.zeros_like(lost)
    for term in encoded.terms:
        reference = term.side.embeddings.double()
        product = (embeddings * reference).sum(dim=1, keepdim=True)
        product_without = (product - lost * (reference @ head)).masked_fill(gone, 0)
        own = reference.square().sum(dim=1, keepdim=True)
        whole = from_products(model, product, square, own)
        drops = drops + term.sign * (whole - from_products(model, product_without, square_without, own))
    return drops.to(activations)


def has_closed_form(model: SimilarityModel) -> bool:
    """Whether channels are pooled separately, directly at the cut, and the head is affine; by exact type."""
    embedder = model.embedder
    return (
        embedder.pools_the_cut
        and type(embedder.pooling) in BY_CHANNEL
        and is_affine(embedder.projection)
        and isinstance(model.similarity, ProductForm)
    )


def from_products(
    model: SimilarityModel,
    product: Float[Tensor, "batch count"],
    square: Float[Tensor, "batch count"],
    reference_square: Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch count"]:
    """The score of a reference r and embeddings e before L2, from <e, r>, |e|^2 and |r|^2."""
    if model.embedder.normalise:
        length = square.clamp_min(EPS).sqrt()
        product, square = product / length, square / length.square()
    assert isinstance(model.similarity, ProductForm)  # checked by `has_closed_form`
    return model.similarity.of_products(product, square, reference_square)
