"""Similarities of embeddings, with their split over dimensions and their linear form."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.types import Embeddings, Scores

EPS = 1e-12  # below the square of any meaningful float32 norm; only guards against 0/0

Gallery: TypeAlias = Float[Tensor, "items dims"]
Matrix: TypeAlias = Float[Tensor, "batch items"]
Products: TypeAlias = Float[Tensor, "batch count"]
Squares: TypeAlias = Float[Tensor, "batch 1"]


@runtime_checkable
class SimilarityFunction(Protocol):
    """A score of two embeddings, greater = more alike, with its split over dimensions.

    Subclasses inherit the methods that have a body here.
    """

    @property
    def name(self) -> str:
        """Key of the score in tables."""
        ...

    def __call__(self, query: Embeddings, reference: Embeddings) -> Scores:
        """Score each pair of rows."""
        return self.split(query, reference).sum(dim=1)

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        """Split the score over dimensions; the contributions sum to it."""
        return query * self.direction(query, reference)

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        """Return the coefficients of the query in the score, with norms held constant."""
        ...

    def keys(self, embeddings: Embeddings) -> Embeddings:
        """Transform embeddings for `compare`, so that a gallery is transformed once for many searches."""
        return embeddings

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        """Score each query with each gallery item, both given as their keys."""
        return query_keys @ keys.T

    def matrix(self, query: Embeddings, gallery: Gallery) -> Matrix:
        """Score each query with each gallery item."""
        return self.compare(self.keys(query), self.keys(gallery))


@runtime_checkable
class ProductForm(SimilarityFunction, Protocol):
    """A similarity that is a function of the embeddings' inner product and lengths.

    A subclass that changes the score must change these members too.
    """

    @property
    def factor(self) -> float:
        """Coefficient of the inner product in the score."""
        return 1.0

    @property
    def by_length(self) -> bool:
        """Whether the score is divided by both lengths."""
        return False

    @property
    def is_distance(self) -> bool:
        """Whether the score is a negative distance."""
        return False

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        """The score from <e, e'>, |e|^2 and |e'|^2."""
        ...


@dataclass(frozen=True)
class Cosine(ProductForm):
    """cos(e, e') = sum_k e_k e'_k / (|e||e'|)."""

    by_length: ClassVar[bool] = True

    name: str = "cosine"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return product / (square.clamp_min(EPS) * reference_square.clamp_min(EPS)).sqrt()

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference / (norm(query) * norm(reference))

    def keys(self, embeddings: Embeddings) -> Embeddings:
        return unit(embeddings)


@dataclass(frozen=True)
class Dot(ProductForm):
    """e . e', un-normalised."""

    name: str = "dot"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return product

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference


@dataclass(frozen=True)
class NegativeEuclidean(ProductForm):
    """-|e - e'|^2, squared because the square splits over dimensions without a pole at zero distance.

    `direction` covers the query's share: -|e - e'|^2 = (e' - e) . e + (e - e') . e', so each image has its own share.
    """

    factor: ClassVar[float] = 2.0
    is_distance: ClassVar[bool] = True

    name: str = "negative_euclidean"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return 2 * product - square - reference_square

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return -(query - reference).square()

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference - query

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        return -torch.cdist(query_keys, keys).square()


def norm(embeddings: Embeddings) -> Float[Tensor, "batch 1"]:
    """Euclidean length of each row, at least the root of EPS."""
    return embeddings.square().sum(dim=1, keepdim=True).clamp_min(EPS).sqrt()


def unit(embeddings: Embeddings) -> Embeddings:
    """Scale rows to length one; a zero row stays zero."""
    return embeddings / norm(embeddings)
