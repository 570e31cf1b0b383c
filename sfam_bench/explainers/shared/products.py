"""Scores as multiples of the product <f, f'> of embeddings before L2."""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Blend
from sfam_bench.core.references import EntryShares
from sfam_bench.core.similarity import ProductForm, norm
from sfam_bench.core.types import Embeddings
from sfam_bench.models.similarity_model import SimilarityModel

Factor: TypeAlias = Float[Tensor, "batch 1"]


def before_l2(model: SimilarityModel, activations: Tensor) -> Embeddings:
    """Embeddings before L2."""
    return model.embedder.project(model.embedder.pool(activations))


def factor(model: SimilarityModel, query: Embeddings, reference: Embeddings) -> Factor:
    """The factor of <f, f'> in the score, with the lengths of both held constant.

    -|e - e'|^2 = 2 <e, e'> - |e|^2 - |e'|^2: the terms of one image alone, constant for unit embeddings, are left out.
    """
    if not isinstance(model.similarity, ProductForm):
        raise UserError(
            f"the similarity '{model.similarity.name}' is not known to be a function of an inner product: "
            "use cosine, dot or negative_euclidean"
        )
    times = norm(query).new_full((len(query), 1), model.similarity.factor)
    by_length = model.embedder.normalise or model.similarity.by_length
    return times / (norm(query) * norm(reference)) if by_length else times


def product_shares(model: SimilarityModel, blend: Blend, whole: Embeddings) -> EntryShares:
    """The share of each image's product with the query in the product of the reference: these add up to it.

    `blend.shares` combine embeddings; where the score is divided by the reference's length, lengths come in.

    Args:
        model: the model.
        blend: the images of a reference.
        whole: the reference's embeddings, (batch, dims).
    """
    by_length = isinstance(model.similarity, ProductForm) and model.similarity.by_length
    return rescale(blend, blend.side.embeddings, whole) if by_length else blend.shares


def rescale(blend: Blend, parts: Float[Tensor, "supports dims"], whole: Embeddings) -> EntryShares:
    """The shares of unit vectors in a unit vector; the shares of `parts`, (supports, dims), in `whole` are known."""
    return blend.shares * norm(parts)[blend.rows, 0] / norm(whole)[blend.pairs, 0]
