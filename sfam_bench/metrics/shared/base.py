"""The input of a metric, and the protocols that metrics and their probes implement."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.maps import normalise, ranks, upsample
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import can_swap
from sfam_bench.core.types import Embeddings, Flags, Maps, RawMaps, Scores
from sfam_bench.engine.series import Series
from sfam_bench.explainers.shared.points import PointPairs
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import SimilarityModel

Remake: TypeAlias = Callable[[SimilarityModel, Encoded, PairBatch], RawMaps]
Question: TypeAlias = tuple["Probe", int]  # a probe and the number of a pair
NOT_DRAWN = "not_drawn"  # the reason for a pair that is outside a metric's random share, and has no record


@dataclass(frozen=True)
class Explained:
    """The maps of one method on a scene: at the resolution of the images, signed, at most one in magnitude.

    `remake` is the method, for metrics that compare its map with that of a changed model, query or reference; None
    where maps cannot be recomputed (they were read from files). `expensive` says that each map takes many passes;
    `point_pairs` computes the values of pairs of positions, for methods that have them and targets of one reference;
    `further` holds maps that one metric computed and another may use.
    """

    scene: Scene
    maps: Maps
    explainer: str = ""
    raw: RawMaps | None = None  # as the method returned them
    remake: Remake | None = None
    answers: Cache = field(default_factory=Cache, compare=False, repr=False)  # by question
    expensive: bool = False
    point_pairs: Callable[[], PointPairs] | None = None
    further: Cache = field(default_factory=Cache, compare=False, repr=False)  # by change

    @cached_property
    def ranks(self) -> Int[Tensor, "batch rows cols"]:
        """Rank of each pixel in descending order of relevance, 0 first."""
        return ranks(self.maps)

    def ask(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Series]]:
        """The images of the questions that have no answer yet."""
        for probe, pair in questions:
            if (probe, pair) not in self.answers:
                yield (probe, pair), probe.series(self, pair)

    def answer(self, question: Question, embeddings: Embeddings) -> None:
        """Store the readings of the embeddings of a question's images."""
        probe, pair = question
        own = probe.read(self, embeddings, pair) if isinstance(probe, Reading) else None
        self.answers[question] = self.scene.readings(embeddings, pair) if own is None else own

    def readings(self, probe: "Probe", needed: Flags, name: str = "score") -> Float[Tensor, "batch items"]:
        """One of the scene's columns for a probe's images, computed once; NaN for pairs that are not `needed`."""
        questions = [(probe, pair) for pair in needed.nonzero()[:, 0].tolist()]
        for question, embeddings in self.scene.encoded.passes(self.ask(questions)):
            self.answer(question, embeddings)
        found = self.scene.full().new_full((len(needed), probe.count(self.maps[0].numel())), torch.nan)
        for probe, pair in questions:
            answer = self.answers[probe, pair][:, self.scene.columns.index(name)]
            found[pair, : len(answer)] = answer
        return found

    @cached_property
    def other(self) -> "Explained | None":
        """The same method's maps of the references; None where there are none or the reference is not one image."""
        if self.remake is None or not can_swap(self.scene.encoded):
            return None
        scene = self.scene.swapped
        raw = self.remake(scene.model, scene.encoded, scene.pairs)
        size = (scene.pairs.query.shape[-2], scene.pairs.query.shape[-1])
        return Explained(scene, upsample(normalise(raw), size), self.explainer, raw, self.remake)


@runtime_checkable
class Probe(Protocol):
    """Perturbed versions of the query by a map; hashable, so that several metrics share their passes."""

    def count(self, pixels: int) -> int:
        """The number of images for a query."""
        ...

    def series(self, explained: Explained, pair: int) -> Series:
        """The images of one pair."""
        ...


@runtime_checkable
class Reading(Probe, Protocol):
    """A probe of other images than the query: it reads its scores itself, and shares none with equal maps."""

    def read(self, explained: Explained, embeddings: Embeddings, pair: int) -> Float[Tensor, "items columns"]:
        """The columns that are kept of its images, the score first."""
        ...


@dataclass(frozen=True)
class Measured:
    """One value for each pair, (batch,), NaN where it is undefined; and by reason the pairs without a value."""

    values: Scores
    reasons: Mapping[str, Flags]


@runtime_checkable
class Metric(Protocol):
    """A metric: an object that returns one value for each pair."""

    @property
    def higher_is_better(self) -> bool | None:
        """Direction; None where there is none (a chance level)."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Regions of the query, "negative" or "gallery", without which the metric does not apply."""
        ...

    def __call__(self, explained: Explained) -> Measured:
        """Return one value for each pair, (batch,), NaN where it is undefined, and the reasons."""
        ...


@runtime_checkable
class Probing(Metric, Protocol):
    """A metric that needs forward passes; they are computed for all methods and metrics in one stream."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The probes whose scores it needs."""
        ...

    @property
    def share(self) -> float:
        """The expected share of pairs whose probes it needs, for planning."""
        ...

    def reasons(self, explained: Explained) -> Mapping[str, Flags]:
        """By reason, the pairs without a value; they need no passes."""
        ...


def mask_values(values: Scores, reasons: Mapping[str, Flags]) -> Measured:
    """The values, NaN where any reason holds."""
    return Measured(torch.where(no_reason(reasons), values, torch.nan), reasons)


def no_records(explained: Explained) -> Measured:
    """No value and no record for any pair."""
    maps = explained.maps
    return Measured(maps.new_full((len(maps),), torch.nan), {NOT_DRAWN: maps.new_ones(len(maps), dtype=torch.bool)})


def no_reason(reasons: Mapping[str, Flags]) -> Flags:
    """The pairs for which no reason holds."""
    return ~torch.stack(list(reasons.values())).any(dim=0)
