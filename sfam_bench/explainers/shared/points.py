"""Contributions of positions to an embedding, and of pairs of positions to a product; Zhu, Yang, Chen, TIP 2021."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.similarity import ProductForm, norm
from sfam_bench.core.types import Activations, Embeddings
from sfam_bench.explainers.shared.forms import derivative, differentiating, gradients
from sfam_bench.models.heads import is_affine
from sfam_bench.models.poolings import BY_CHANNEL
from sfam_bench.models.similarity_model import SimilarityModel

Bias = Literal["drop", "spread"]
Points: TypeAlias = Float[Tensor, "batch positions dims"]
PointPairs: TypeAlias = Float[Tensor, "batch rows cols reference_rows reference_cols"]


def point_to_point(model: SimilarityModel, query: Side, reference: Side, bias: Bias = "drop") -> PointPairs:
    """The joint contribution of each position of the query and each of the reference; large, so for few pairs."""
    points, others = (point_embeddings(model, side, bias) for side in (query, reference))
    return (points @ others.mT * factor(model)).view(
        len(points), *query.activations.shape[-2:], *reference.activations.shape[-2:]
    )


def point_embeddings(model: SimilarityModel, side: Side, bias: Bias) -> Points:
    """The contribution of each position to the embedding, over its length where the score is of unit vectors."""
    embedder = model.embedder
    by_channel = embedder.pools_the_cut and type(embedder.pooling) in BY_CHANNEL
    whole, points = (pooled_points if by_channel else local_points)(model, side)
    if bias == "spread":
        points = points + (whole - points.sum(dim=1))[:, None] / points.shape[1]
    by_length = isinstance(model.similarity, ProductForm) and model.similarity.by_length
    return points / norm(whole)[:, None] if embedder.normalise or by_length else points


def pooled_points(model: SimilarityModel, side: Side) -> tuple[Embeddings, Points]:
    """The embedding before L2, and the head's Jacobian times what pooling passes on of each position."""
    embedder = model.embedder
    shares = pooled_shares(model, embedder.pool, side.activations).flatten(2).mT
    with differentiating(model):
        pooled = embedder.pool(side.activations.detach()).detach()
        whole = embedder.project(pooled).detach()
        if type(embedder.projection) is nn.Identity:
            return whole, shares
        at = torch.zeros_like(pooled[:1]) if is_affine(embedder.projection) else pooled
        rows = (len(at), whole.shape[1])  # one row for each dimension, so that one backward pass gives all
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
    """A_k dp_k/dA_k, the contribution of each position to a pooled channel, for poolings of single channels."""
    with differentiating(model):
        return activations * derivative(pool, activations)


def factor(model: SimilarityModel) -> float:
    """The factor of the inner product in the score."""
    return model.similarity.factor if isinstance(model.similarity, ProductForm) else 1.0


@runtime_checkable
class PointToPoint(Protocol):
    """A method that also says with which positions of the reference each position of the query is connected."""

    def point_pairs(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> PointPairs:
        """Return the value of each pair of positions, (batch, rows, cols, reference rows, reference cols).

        Raises:
            UserError: if the target has more than one reference.
        """
        ...


def only_reference(encoded: Encoded) -> Side:
    """The one reference image of a target that has one."""
    if len(encoded.terms) > 1 or encoded.terms[0].rivals:
        raise UserError("pairs of positions of a margin are not defined: explain its comparisons one by one")
    return encoded.terms[0].side.side_for("a map of pairs of positions")
