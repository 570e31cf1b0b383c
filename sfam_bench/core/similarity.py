"""Scores of two embeddings, greater = more alike; each with its split over dimensions and its linear form."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.types import Embeddings, Scores

EPS = 1e-12  # below the square of any float32 norm that carries meaning; only guards 0/0

Gallery: TypeAlias = Float[Tensor, "items dims"]
Matrix: TypeAlias = Float[Tensor, "batch items"]
Products: TypeAlias = Float[Tensor, "batch count"]
Squares: TypeAlias = Float[Tensor, "batch 1"]


@runtime_checkable
class SimilarityFunction(Protocol):
    """A score of two embeddings that also says how it is made up."""

    @property
    def name(self) -> str:
        """Key under which the score stands in tables."""
        ...

    def __call__(self, query: Embeddings, reference: Embeddings) -> Scores:
        """Score each pair of rows."""
        ...

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        """Contribution of each dimension; sums to the score."""
        ...

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        """Coefficients of the query in the score, with norms held constant."""
        ...

    def keys(self, embeddings: Embeddings) -> Embeddings:
        """Embeddings as `compare` reads them, so that a gallery which is searched often is scaled once."""
        ...

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        """Score each query with each gallery item, both given as their keys."""
        ...

    def matrix(self, query: Embeddings, gallery: Gallery) -> Matrix:
        """Score each query with each gallery item."""
        ...


@runtime_checkable
class ProductForm(SimilarityFunction, Protocol):
    """A similarity that follows from the inner product of two embeddings and their lengths.

    A subclass that changes the score changes these too.
    """

    @property
    def factor(self) -> float:
        """How often the inner product is in the score."""
        ...

    @property
    def by_length(self) -> bool:
        """Whether the score divides by both lengths."""
        ...

    @property
    def is_distance(self) -> bool:
        """Whether the score is minus a distance."""
        ...

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        """The score from <e, e'>, |e|^2 and |e'|^2."""
        ...


@dataclass(frozen=True)
class Cosine:
    """cos(e, e') = sum_k e_k e'_k / (|e||e'|)."""

    factor: ClassVar[float] = 1.0
    by_length: ClassVar[bool] = True
    is_distance: ClassVar[bool] = False

    name: str = "cosine"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return product / (square.clamp_min(EPS) * reference_square.clamp_min(EPS)).sqrt()

    def __call__(self, query: Embeddings, reference: Embeddings) -> Scores:
        return self.split(query, reference).sum(dim=1)

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return query * self.direction(query, reference)

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference / (norm(query) * norm(reference))

    def keys(self, embeddings: Embeddings) -> Embeddings:
        return unit(embeddings)

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        return query_keys @ keys.T

    def matrix(self, query: Embeddings, gallery: Gallery) -> Matrix:
        return self.compare(self.keys(query), self.keys(gallery))


@dataclass(frozen=True)
class Dot:
    """e . e', un-normalised."""

    factor: ClassVar[float] = 1.0
    by_length: ClassVar[bool] = False
    is_distance: ClassVar[bool] = False

    name: str = "dot"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return product

    def __call__(self, query: Embeddings, reference: Embeddings) -> Scores:
        return self.split(query, reference).sum(dim=1)

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return query * reference

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference

    def keys(self, embeddings: Embeddings) -> Embeddings:
        return embeddings

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        return query_keys @ keys.T

    def matrix(self, query: Embeddings, gallery: Gallery) -> Matrix:
        return self.compare(query, gallery)


@dataclass(frozen=True)
class NegativeEuclidean:
    """-|e - e'|^2, squared because only the square splits over dimensions without a pole at zero distance.

    `direction` is the query's side: -|e - e'|^2 = (e' - e) . e + (e - e') . e', so the two images share the score.
    """

    factor: ClassVar[float] = 2.0
    by_length: ClassVar[bool] = False
    is_distance: ClassVar[bool] = True

    name: str = "negative_euclidean"

    def of_products(self, product: Products, square: Products, reference_square: Squares) -> Products:
        return 2 * product - square - reference_square

    def __call__(self, query: Embeddings, reference: Embeddings) -> Scores:
        return self.split(query, reference).sum(dim=1)

    def split(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return -(query - reference).square()

    def direction(self, query: Embeddings, reference: Embeddings) -> Embeddings:
        return reference - query

    def keys(self, embeddings: Embeddings) -> Embeddings:
        return embeddings

    def compare(self, query_keys: Embeddings, keys: Gallery) -> Matrix:
        return -torch.cdist(query_keys, keys).square()

    def matrix(self, query: Embeddings, gallery: Gallery) -> Matrix:
        return self.compare(query, gallery)


def norm(embeddings: Embeddings) -> Float[Tensor, "batch 1"]:
    """Euclidean length of each row, never zero."""
    return embeddings.square().sum(dim=1, keepdim=True).clamp_min(EPS).sqrt()


def unit(embeddings: Embeddings) -> Embeddings:
    """Rows of length one; a zero row stays zero."""
    return embeddings / norm(embeddings)
