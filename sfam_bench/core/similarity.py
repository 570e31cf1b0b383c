"""Scores of two embeddings, greater = more alike; each with its split over dimensions and its linear form."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.types import Embeddings, Scores

EPS = 1e-12  # below the square of any float32 norm that carries meaning; only guards 0/0

Gallery: TypeAlias = Float[Tensor, "items dims"]
Matrix: TypeAlias = Float[Tensor, "batch items"]


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


@dataclass(frozen=True)
class Cosine:
    """cos(e, e') = sum_k e_k e'_k / (|e||e'|)."""

    name: str = "cosine"

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

    name: str = "dot"

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

    name: str = "negative_euclidean"

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
