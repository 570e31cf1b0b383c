"""Targets: the scalar that is explained and measured; greater = more alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, stack

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Finite, Positive
from sfam_bench.core.records import Encoded, Reference, Term
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.core.types import Embeddings, Scores

NO_NEGATIVE = "the margin target needs triplets: choose pairs.kinds=[triplet]"
NO_RIVAL = "the target best_rival needs an item of another class in the gallery, and there is none"
NO_THRESHOLD = (
    "target.threshold is not set: sfam-bench embed verification=true prints it, at equal errors or a given FAR"
)
NO_RIVALS = (
    "the target class_score needs references of other classes, and these pairs have none: set episodes.rivals=true"
)


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

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        """Return the references that the query is compared with, and the sign of each comparison."""
        ...


@dataclass(frozen=True)
class Similarity:
    """s(query, reference)."""

    name: str = "similarity"

    def check(self, has_negatives: bool) -> None:
        """Accept any pair."""

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        return (Term(1.0, reference),)


@dataclass(frozen=True)
class Margin:
    """s(query, positive) - s(query, negative)."""

    name: str = "margin"

    def check(self, has_negatives: bool) -> None:
        if not has_negatives:
            raise UserError(NO_NEGATIVE)

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        if negative is None:
            raise UserError(NO_NEGATIVE)
        return (Term(1.0, reference), Term(-1.0, negative))


@dataclass(frozen=True)
class BestRival(Margin):
    """s(query, reference) - s(query, rival), the rival being the nearest item of another class in the gallery.

    It is a margin whose negative is found by `datasets.pairs.add_rivals` for pairs of any kind. The rival is that of
    the unchanged query: it stays the same while pixels are removed.
    """

    name: str = "best_rival"

    def check(self, has_negatives: bool) -> None:
        """Accept any pair; the rival is found later."""

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        if negative is None:
            raise UserError(NO_RIVAL)
        return super().terms(reference, negative)


@dataclass(frozen=True)
class ClassScore(Checked):
    """softmax_n(s(query, n) / temperature) of the reference's class among the reference and its rivals.

    Linear methods explain its linear part at the query: the comparisons, weighted by d score / d s_n.

    temperature: in units of the similarity; 1 for the negative squared distance is ProtoNet's (Snell et al., NeurIPS
        2017).
    """

    temperature: Positive = 1.0
    name: str = "class_score"

    def check(self, has_negatives: bool) -> None:
        """Accept any pair; rivals are checked by `terms`."""

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        if not rivals:
            raise UserError(NO_RIVALS)
        return (Term(1.0, reference, tuple(rivals), float(self.temperature)),)


@dataclass(frozen=True)
class Threshold(Checked):
    """s(query, reference) - threshold: above zero the pair is accepted.

    threshold: in units of the similarity; `core.verification.calibrate` finds it on other classes.
    """

    threshold: Finite | None = None
    name: str = "threshold"

    def check(self, has_negatives: bool) -> None:
        """Accept any pair, once the threshold is known."""
        if self.threshold is None:
            raise UserError(NO_THRESHOLD)

    def terms(
        self, reference: Reference, negative: Reference | None, rivals: Sequence[Reference] = ()
    ) -> tuple[Term, ...]:
        if self.threshold is None:
            raise UserError(NO_THRESHOLD)
        return (Term(1.0, reference, threshold=float(self.threshold)),)


def score(
    similarity: SimilarityFunction,
    query: Embeddings,
    terms: tuple[Term, ...],
    pairs: Int[Tensor, " batch"] | None = None,
) -> Scores:
    """The target's value of each query embedding: the sum of its terms.

    Row i belongs to pair `pairs[i]`, without `pairs` to pair i.
    """
    total = query.new_zeros(len(query))
    for term in terms:
        scores = _similarities(similarity, query, term, pairs)
        value = (scores / term.temperature).softmax(dim=1)[:, 0] if term.rivals else scores[:, 0] - term.threshold
        total = total + term.sign * value
    return total


def comparisons(
    similarity: SimilarityFunction, query: Embeddings, terms: tuple[Term, ...]
) -> Iterator[tuple[Float[Tensor, "batch 1"], Reference]]:
    """Each reference with d target / d similarity(query, reference), (batch, 1).

    The sign of the term for a similarity, and the derivative of the softmax at the query for a class score.
    """
    for term in terms:
        if not term.rivals:
            yield query.new_full((len(query), 1), term.sign), term.side
            continue
        shares = (_similarities(similarity, query, term).detach() / term.temperature).softmax(dim=1)
        for place, reference in enumerate(term.references):
            own = (1 if place == 0 else 0) - shares[:, [place]]
            yield term.sign * shares[:, :1] * own / term.temperature, reference


def linear_part(similarity: SimilarityFunction, query: Embeddings, terms: tuple[Term, ...]) -> Scores:
    """The sum over references of d target / d similarity * similarity: what an additive map sums to.

    It is the target for similarities and margins, the similarity for a threshold, and the linear part of a class score.
    """
    parts = [
        slope[:, 0] * similarity(query, reference.embeddings)
        for slope, reference in comparisons(similarity, query, terms)
    ]
    return sum(parts, start=query.new_zeros(len(query)))


def _similarities(
    similarity: SimilarityFunction, query: Embeddings, term: Term, pairs: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch references"]:
    """The similarity to each reference of a term, (batch, references)."""
    others = [reference.embeddings for reference in term.references]
    columns = [similarity(query, other if pairs is None else other[pairs]) for other in others]
    return stack(columns, dim=1)


def swap_sides(encoded: Encoded) -> Encoded:
    """Exchange query and reference; the query's map of the swapped pair is the reference's map of this one."""
    if len(encoded.terms) != 1 or encoded.terms[0].rivals:
        raise UserError("only a target with one reference can be swapped: explain the images of a triplet one by one")
    (term,) = encoded.terms
    swapped = replace(term, side=Reference.of(encoded.query))
    return replace(encoded, query=term.side.side_for("a swapped pair"), terms=(swapped,), kept=Cache())


def can_swap(encoded: Encoded) -> bool:
    """Whether the target compares with one image alone."""
    return len(encoded.terms) == 1 and not encoded.terms[0].rivals and encoded.terms[0].side.is_image
