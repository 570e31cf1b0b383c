"""Targets: the scalar that is explained and measured; greater = more alike."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, Side, Term
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.core.types import Embeddings, Scores

NO_NEGATIVE = "the margin target needs triplets: choose pairs.kinds=[triplet]"


@runtime_checkable
class Target(Protocol):
    """Chooses the signed comparisons of a query."""

    @property
    def name(self) -> str:
        """The target's value in the column `target` of records."""
        ...

    def check(self, has_negatives: bool) -> None:
        """Raise UserError if the pairs lack what the target needs."""
        ...

    def terms(self, reference: Side, negative: Side | None) -> tuple[Term, ...]:
        """Return the images that the query is compared with, and the sign of each comparison."""
        ...


@dataclass(frozen=True)
class Similarity:
    """s(query, reference)."""

    name: str = "similarity"

    def check(self, has_negatives: bool) -> None:
        """Accept any pair."""

    def terms(self, reference: Side, negative: Side | None) -> tuple[Term, ...]:
        return (Term(1.0, reference),)


@dataclass(frozen=True)
class Margin:
    """s(query, positive) - s(query, negative)."""

    name: str = "margin"

    def check(self, has_negatives: bool) -> None:
        if not has_negatives:
            raise UserError(NO_NEGATIVE)

    def terms(self, reference: Side, negative: Side | None) -> tuple[Term, ...]:
        if negative is None:
            raise UserError(NO_NEGATIVE)
        return (Term(1.0, reference), Term(-1.0, negative))


def score(
    similarity: SimilarityFunction,
    query: Embeddings,
    terms: tuple[Term, ...],
    pairs: Int[Tensor, " batch"] | None = None,
) -> Scores:
    """The target's value of each query embedding: sum over terms of sign * similarity.

    Row i belongs to pair `pairs[i]`, without `pairs` to pair i.
    """
    total = query.new_zeros(len(query))
    for term in terms:
        other = term.side.embeddings
        total = total + term.sign * similarity(query, other if pairs is None else other[pairs])
    return total


def swap_sides(encoded: Encoded) -> Encoded:
    """Exchange query and reference; the query's map of the swapped pair is the reference's map of this one."""
    if len(encoded.terms) != 1:
        raise UserError("only a target with one reference can be swapped: explain the images of a triplet one by one")
    (term,) = encoded.terms
    return replace(encoded, query=term.side, terms=(Term(term.sign, encoded.query),), kept=Cache())
