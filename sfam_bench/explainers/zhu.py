"""Activation decomposition: the inner product of two embeddings, split over pairs of positions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfam_bench.errors import UserError, check_choices
from sfam_bench.explainers import forms
from sfam_bench.explainers.ablation_cam import POOLINGS, is_affine
from sfam_bench.explainers.card import Card
from sfam_bench.explainers.forms import derivative, differentiating, gradients
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch, Side
from sfam_bench.similarity import Cosine, NegativeEuclidean, norm
from sfam_bench.types import Activations, Embeddings, RawMaps

Bias = Literal["drop", "spread"]
Points: TypeAlias = Float[Tensor, "batch positions dims"]
OtherPoints: TypeAlias = Float[Tensor, "batch other_positions dims"]
PointPairs: TypeAlias = Float[Tensor, "batch rows cols reference_rows reference_cols"]


@dataclass(frozen=True)
class Zhu:
    """sum_xy (W A_ij).(W B_xy), the product split over pairs of positions; Zhu, Yang, Chen, TIP 2021.

    What pooling lets through of a position, times the head's weights, is its share in the embedding: A_ij/N under GAP,
    the argmax of each channel under GMP; a batch-norm neck is part of W. Behind a head that is not affine, and behind
    an early cut (there by one backward pass a dimension), it is the local linear part. Both lengths divide the map
    where the score is of unit vectors. Of the negative squared Euclidean distance this is 2 e.e': the rest, the
    squared lengths, holds one image alone, and nothing at all for unit vectors.

    rectify: "pair" clips each pair of positions at zero before the sum, as the authors' code does; "none" is exact;
        "map" clips the map of the whole target at the end. With "pair" each comparison of a margin is clipped alone.
    bias: what the positions leave of the embedding, for an affine head its bias: "drop" it, as the authors' code does,
        or "spread" it evenly over the positions.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "without rectification and behind a bias-free affine head it is the similarity decomposition (cosine, dot)",
            "without rectification and a head it is Stylianou's map (cosine)",
            "without rectification it is Grad-CAM without its ReLU on the dot product under GAP and a bias-free head",
            "without rectification and with the bias spread it sums to the score (cosine, dot)",
            "where no pair of positions speaks against, rectification changes nothing",
        ),
        degenerate=(
            "clipped pair by pair it sums to more than the score, by all that speaks against",
            "behind a rectified last layer and without a head no pair is negative, and clipping does nothing",
        ),
    )

    rectify: Literal["none", "pair", "map"] = "pair"
    bias: Bias = "drop"

    def __post_init__(self) -> None:
        check_choices(self)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        points = point_embeddings(model, query, self.bias)
        maps = torch.zeros_like(points[:, :, 0])
        for term in encoded.terms:
            others = point_embeddings(model, term.side, self.bias)
            maps = maps + term.sign * (clipped_sums if self.rectify == "pair" else sums)(points, others)
        maps = (maps * factor(model)).view_as(query.activations[:, 0])
        return maps.relu() if self.rectify == "map" else maps


def point_to_point(
    model: SimilarityModel,
    query: Side,
    reference: Side,
    rectify: Literal["none", "pair"] = "none",
    bias: Bias = "drop",
) -> PointPairs:
    """What each position of the query and each of the reference add together; large, so ask for few pairs."""
    points, others = (point_embeddings(model, side, bias) for side in (query, reference))
    shares = (points @ others.mT * factor(model)).view(len(points), *_grid(query), *_grid(reference))
    return shares.clamp_min(0) if rectify == "pair" else shares


def point_specific(
    model: SimilarityModel,
    query: Side,
    reference: Side,
    point: tuple[int, int],
    on: Literal["query", "reference"] = "query",
    rectify: Literal["none", "pair"] = "none",
    bias: Bias = "drop",
) -> RawMaps:
    """A slice of `point_to_point`: the map over the image that `on` names, for one (row, col) of the other's grid."""
    shown, pointed = (query, reference) if on == "query" else (reference, query)
    (row, col), (rows, cols) = point, _grid(pointed)
    if not (0 <= row < rows and 0 <= col < cols):
        raise UserError(f"the point ({row}, {col}) is not on the grid of {rows} x {cols}: rows and cols count from 0")
    other = point_embeddings(model, pointed, bias)[:, row * cols + col]
    maps = torch.einsum("bnd,bd->bn", point_embeddings(model, shown, bias), other) * factor(model)
    return (maps.clamp_min(0) if rectify == "pair" else maps).view_as(shown.activations[:, 0])


def point_embeddings(model: SimilarityModel, side: Side, bias: Bias) -> Points:
    """What each position adds to the embedding, over its length where the score is of unit vectors."""
    embedder = model.embedder
    by_channel = embedder.pools_the_cut and type(embedder.pooling) in POOLINGS
    whole, points = (pooled_points if by_channel else local_points)(model, side)
    if bias == "spread":
        points = points + (whole - points.sum(dim=1))[:, None] / points.shape[1]
    return points / norm(whole)[:, None] if embedder.normalise or isinstance(model.similarity, Cosine) else points


def pooled_points(model: SimilarityModel, side: Side) -> tuple[Embeddings, Points]:
    """The embedding before L2, and the head's Jacobian times what pooling lets through of each position."""
    embedder = model.embedder
    shares = pooled_shares(model, embedder.pool, side.activations).flatten(2).mT
    with differentiating(model):
        pooled = embedder.pool(side.activations.detach()).detach()
        whole = embedder.project(pooled).detach()
        if type(embedder.projection) is nn.Identity:
            return whole, shares
        at = torch.zeros_like(pooled[:1]) if is_affine(embedder.projection) else pooled
        rows = (len(at), whole.shape[1])  # a row a dimension, so that one backward pass gives them all
        weights = derivative(
            lambda p: embedder.project(p).unflatten(0, rows).diagonal(dim1=1, dim2=2), at.repeat_interleave(rows[1], 0)
        )
        return whole, shares @ weights.unflatten(0, rows).mT


def local_points(model: SimilarityModel, side: Side) -> tuple[Embeddings, Points]:
    """The embedding before L2, and its Jacobian by each position times the activations there."""
    embedder = model.embedder
    with differentiating(model):
        leaf = side.activations.detach().clone().requires_grad_()
        whole = embedder.project(embedder.pool(leaf))
        points = [
            (gradients(dimension.sum(), [leaf], again=True)[0] * leaf).detach().sum(dim=1).flatten(1)
            for dimension in whole.unbind(dim=1)
        ]
    return whole.detach(), torch.stack(points, dim=2)


def pooled_shares(model: SimilarityModel, pool: Callable[[Tensor], Tensor], activations: Activations) -> Activations:
    """A_k dp_k/dA_k, what each position adds to a pooled channel, for poolings that take the channels one by one."""
    with differentiating(model):
        return activations * derivative(pool, activations)


def factor(model: SimilarityModel) -> float:
    """How often the inner product is in the score."""
    return 2.0 if isinstance(model.similarity, NegativeEuclidean) else 1.0


def sums(points: Points, others: OtherPoints) -> Float[Tensor, "batch positions"]:
    """What each position adds with all of the other image."""
    return torch.einsum("bnd,bd->bn", points, others.sum(dim=1))


def clipped_sums(points: Points, others: OtherPoints) -> Float[Tensor, "batch positions"]:
    """The same without the pairs of positions that speak against; at most about CHUNK bytes of pairs at once."""
    step = max(1, forms.CHUNK // (others.shape[1] * others.element_size()))
    return torch.stack(
        [
            torch.cat([(some @ other.T).clamp_min(0).sum(dim=1) for some in mine.split(step)])
            for mine, other in zip(points, others, strict=True)
        ]
    )


def _grid(side: Side) -> tuple[int, int]:
    rows, cols = side.activations.shape[-2:]
    return rows, cols
