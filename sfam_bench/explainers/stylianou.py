"""Spatial similarity of two feature maps, without the head."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.similarity import norm, unit
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Activations, RawMaps
from sfam_bench.explainers.shared.forms import combine
from sfam_bench.explainers.shared.points import pooled_shares
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Stylianou:
    """sum_j a_i.b_j, a_i = A_i/(N|p|), b_j = B_j/(N|q|), p and q pooled; Stylianou et al., WACV 2019.

    It explains the cosine of the pooled features, for any head and similarity of the model. With another pooling A_i/N
    is what it passes on of position i, as the argmax of each channel under GMP; behind an early cut the features are
    those of GAP at the cut.
    """

    card: ClassVar[Card] = Card(
        needs_images=True,
        total="score",
        identities=(
            "it sums to the cosine of the pooled features",
            "it is Zhu's map without head and rectification (cosine)",
            "without a head it is the similarity decomposition (cosine)",
            "the margin map is the positive's map minus the negative's",
        ),
        degenerate=("with a head it explains another similarity than the score",),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        weights = torch.zeros_like(query.activations[:, :, 0, 0])
        for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms):
            blend = reference.images_for("Stylianou")
            features = pooled_positions(model, blend.side).sum(dim=(2, 3))
            if model.embedder.normalise:
                features = unit(features)
            weights = weights + slope * unit(blend.add(features[blend.rows], blend.shares, len(weights)))
        return combine(weights, unit_shares(model, query))


def unit_shares(model: SimilarityModel, side: Side) -> Activations:
    """The contribution of each position to the pooled features, over their length."""
    shares = pooled_positions(model, side)
    return shares / norm(shares.sum(dim=(2, 3)))[:, :, None, None]


def pooled_positions(model: SimilarityModel, side: Side) -> Activations:
    """The contribution of each position to the pooled features."""
    pool = model.embedder.pool if model.embedder.pools_the_cut else GAP()
    return pooled_shares(model, pool, side.activations)
