"""What a metric sees, and what it must say about itself."""

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
from sfam_bench.core.types import Embeddings, Flags, Maps, RawMaps, Scores
from sfam_bench.engine.series import Series
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import SimilarityModel

Remake: TypeAlias = Callable[[SimilarityModel, Encoded, PairBatch], RawMaps]
Question: TypeAlias = tuple["Probe", int]  # a probe, and the pair it is put to
NOT_DRAWN = "not_drawn"  # the reason for a pair that a metric of a random share leaves alone, and that has no record


@dataclass(frozen=True)
class Explained:
    """The maps of one method on a scene: at the resolution of the images, signed, at most one in magnitude.

    `remake` is the method itself, for metrics that compare its map with that of a changed model, query or reference;
    None where maps cannot be made again (they came out of files). `samples` says that each map takes forward passes of
    its own; `further` holds what one metric asked the method for and another may ask again.
    """

    scene: Scene
    maps: Maps
    explainer: str = ""
    raw: RawMaps | None = None  # as the method returned them
    remake: Remake | None = None
    answers: Cache = field(default_factory=Cache, compare=False, repr=False)  # by question
    samples: bool = False
    further: Cache = field(default_factory=Cache, compare=False, repr=False)  # by change

    @cached_property
    def ranks(self) -> Int[Tensor, "batch rows cols"]:
        """The order in which pixels go."""
        return ranks(self.maps)

    def ask(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Series]]:
        """The images of the questions that have no answer yet."""
        for probe, pair in questions:
            if (probe, pair) not in self.answers:
                yield (probe, pair), probe.series(self, pair)

    def hear(self, question: Question, embeddings: Embeddings) -> None:
        """Keep what is read of the images of a question."""
        probe, pair = question
        own = probe.read(self, embeddings, pair) if isinstance(probe, Reading) else None
        self.answers[question] = self.scene.readings(embeddings, pair) if own is None else own

    def borrow(self, answers: Mapping[Question, Tensor]) -> None:
        """Keep answers that a method with the same maps was given."""
        for question, answer in answers.items():
            self.answers[question] = answer

    def scores(self, probe: "Probe", asked: Flags) -> Float[Tensor, "batch items"]:
        """The scores of a probe's images, NaN for pairs that are not asked; taken now unless they were before."""
        return self.readings(probe, asked, "score")

    def readings(self, probe: "Probe", asked: Flags, name: str) -> Float[Tensor, "batch items"]:
        """One of the scene's columns, as `scores`."""
        questions = [(probe, pair) for pair in asked.nonzero()[:, 0].tolist()]
        for question, embeddings in self.scene.encoded.passes(self.ask(questions)):
            self.hear(question, embeddings)
        found = self.scene.full().new_full((len(asked), probe.count(self.maps[0].numel())), torch.nan)
        for probe, pair in questions:
            answer = self.answers[probe, pair][:, self.scene.columns.index(name)]
            found[pair, : len(answer)] = answer
        return found

    @cached_property
    def other(self) -> "Explained | None":
        """The same method's maps of the references; None where they cannot be made, or where a target has two."""
        if self.remake is None or len(self.scene.encoded.terms) > 1:
            return None
        scene = self.scene.swapped
        raw = self.remake(scene.model, scene.encoded, scene.pairs)
        size = (scene.pairs.query.shape[-2], scene.pairs.query.shape[-1])
        return Explained(scene, upsample(normalise(raw), size), self.explainer, raw, self.remake)


@runtime_checkable
class Probe(Protocol):
    """Perturbed versions of the query, made with a map; hashable, so that what several metrics ask is taken once."""

    def count(self, pixels: int) -> int:
        """How many images it makes of a query."""
        ...

    def series(self, explained: Explained, pair: int) -> Series:
        """The images of one pair."""
        ...


@runtime_checkable
class Reading(Probe, Protocol):
    """A probe of other images than the query, or of more: it reads the answers itself, and no other map's serve it."""

    def read(self, explained: Explained, embeddings: Embeddings, pair: int) -> Float[Tensor, "items columns"]:
        """What is kept of its images, the score first."""
        ...


@dataclass(frozen=True)
class Measured:
    """One value a pair, (batch,), NaN where it is undefined; and by reason the pairs for which there is none."""

    values: Scores
    reasons: Mapping[str, Flags]


@runtime_checkable
class Metric(Protocol):
    """One value a pair, with the reasons for those that are undefined."""

    @property
    def higher_is_better(self) -> bool | None:
        """Direction; None where there is none (a chance level)."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Regions of the query, "negative" or "gallery", without which the metric does not apply."""
        ...

    def __call__(self, explained: Explained) -> Measured:
        """Measure each pair."""
        ...


@runtime_checkable
class Asking(Metric, Protocol):
    """A metric that needs forward passes; they are taken for all methods and metrics in one stream."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What it asks."""
        ...

    @property
    def share(self) -> float:
        """Of how many pairs it asks, for planning."""
        ...

    def asked(self, explained: Explained) -> Flags:
        """The pairs of which it asks."""
        ...


def defined(values: Scores, reasons: Mapping[str, Flags]) -> Measured:
    """The values, NaN where any reason holds."""
    return Measured(torch.where(sound(reasons), values, torch.nan), reasons)


def not_drawn(explained: Explained) -> Measured:
    """No value and no record of any pair."""
    maps = explained.maps
    return Measured(maps.new_full((len(maps),), torch.nan), {NOT_DRAWN: maps.new_ones(len(maps), dtype=torch.bool)})


def sound(reasons: Mapping[str, Flags]) -> Flags:
    """The pairs for which no reason holds."""
    return ~torch.stack(list(reasons.values())).any(dim=0)
