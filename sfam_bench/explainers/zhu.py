"""Activation decomposition: the inner product of two embeddings, split over pairs of positions."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared import forms
from sfam_bench.explainers.shared.points import (
    Bias,
    PointPairs,
    Points,
    factor,
    only_reference,
    point_embeddings,
    point_to_point,
)
from sfam_bench.explainers.shared.products import product_shares
from sfam_bench.models.similarity_model import SimilarityModel

OtherPoints: TypeAlias = Float[Tensor, "batch other_positions dims"]


@dataclass(frozen=True)
class Zhu(Checked):
    """sum_xy (W A_ij).(W B_xy), the product split over pairs of positions; Zhu, Yang, Chen, TIP 2021.

    The share of a position in the embedding is what pooling passes on of it, times the head's weights: A_ij/N under
    GAP, the argmax of each channel under GMP; a batch-norm neck is part of W. Behind a head that is not affine, and
    behind an early cut (by one backward pass for each dimension), it is the local linear part. The map is divided by
    both lengths where the score is of unit vectors. For the negative squared Euclidean distance it splits 2 e.e': the
    squared lengths depend on one image alone, and are constant for unit vectors.

    rectify: "pair" clips each pair of positions at zero before the sum, as the authors' code does; "none" is exact;
        "map" clips the map of the whole target at the end. With "pair" each comparison of a margin is clipped
        separately.
    bias: the rest of the embedding, for an affine head its bias: "drop" it, as the authors' code does, or "spread" it
        evenly over the positions.
    """

    card: ClassVar[Card] = Card(
        needs_images=True,
        identities=(
            "without rectification and behind a bias-free affine head it is the similarity decomposition (cosine, dot)",
            "without rectification and a head it is Stylianou's map (cosine)",
            "without rectification it is Grad-CAM without its ReLU on the dot product under GAP and a bias-free head",
            "without rectification and with the bias spread it sums to the score (cosine, dot)",
            "where no pair of positions is negative, rectification changes nothing",
        ),
        degenerate=(
            "clipped pair by pair it sums to more than the score, by the sum of the negative pairs",
            "behind a rectified last layer and without a head no pair is negative, and clipping does nothing",
        ),
    )

    rectify: Literal["none", "pair", "map"] = "pair"
    bias: Bias = "drop"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        points = point_embeddings(model, query, self.bias)
        maps = torch.zeros_like(points[:, :, 0])
        add_up = clipped_sums if self.rectify == "pair" else sums
        for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms):
            blend = reference.images_for("Zhu")
            others = point_embeddings(model, blend.side, self.bias)
            shares = product_shares(model, blend, reference.embeddings)
            parts = add_up(points[blend.pairs], others[blend.rows])
            maps = maps + slope * blend.add(parts, shares, len(points))
        maps = (maps * factor(model)).view_as(query.activations[:, 0])
        return maps.relu() if self.rectify == "map" else maps

    def point_pairs(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> PointPairs:
        """The product of each pair of positions, before the map is rectified."""
        shares = point_to_point(model, encoded.query, only_reference(encoded), self.bias)
        return shares.clamp_min(0) if self.rectify == "pair" else shares


def sums(points: Points, others: OtherPoints) -> Float[Tensor, "batch positions"]:
    """The contribution of each position with all positions of the other image."""
    return torch.einsum("bnd,bd->bn", points, others.sum(dim=1))


def clipped_sums(points: Points, others: OtherPoints) -> Float[Tensor, "batch positions"]:
    """The same without negative pairs of positions; computes about CHUNK bytes of pairs at once."""
    step = max(1, forms.CHUNK // (others.shape[1] * others.element_size()))
    return torch.stack(
        [
            torch.cat([(some @ other.T).clamp_min(0).sum(dim=1) for some in mine.split(step)])
            for mine, other in zip(points, others, strict=True)
        ]
    )
