"""What a metric sees, and what it must say about itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.baselines import Baseline
from sfam_bench.engine.modes import evaluating
from sfam_bench.engine.series import Series
from sfam_bench.maps import ranks
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.targets import score
from sfam_bench.types import Embeddings, Flags, Images, Maps, Masks, RawMaps, Scores

Remake: TypeAlias = Callable[[SimilarityModel, Encoded, PairBatch], RawMaps]
Question: TypeAlias = tuple["Probe", int]  # a probe, and the pair it is put to
NOT_DRAWN = "not_drawn"  # the reason for a pair that a metric of a random share leaves alone, and that has no record


@dataclass(frozen=True)
class Scene:
    """One encoded batch of pairs and what is measured of it once for all methods."""

    model: SimilarityModel
    encoded: Encoded
    pairs: PairBatch
    facts: dict[str, Scores] = field(default_factory=dict)  # s_full, s_headless, s_base_<baseline>: of the pair itself
    emptied: dict[Baseline, Images] = field(default_factory=dict)

    def read(self, embeddings: Embeddings, pair: int) -> Scores:
        """The target of other images in the place of one pair's query."""
        pairs = torch.full((len(embeddings),), pair, device=embeddings.device)
        return score(self.model.similarity, embeddings, self.encoded.terms, pairs)

    def without(self, baseline: Baseline) -> Images:
        """The queries without their content."""
        if baseline not in self.emptied:
            self.emptied[baseline] = baseline(self.encoded.query.images)
        return self.emptied[baseline]

    def full(self) -> Scores:
        """The target of the untouched query."""
        if "s_full" not in self.facts:
            query = self.encoded.query.embeddings
            self.facts["s_full"] = score(self.model.similarity, query, self.encoded.terms)
        return self.facts["s_full"]

    def base(self, baseline: Baseline) -> Scores:
        """The target of the query without its content."""
        key = f"s_base_{baseline.name}"
        if key not in self.facts:
            with torch.no_grad(), evaluating(self.model):
                embeddings = self.model(self.without(baseline))
            self.facts[key] = score(self.model.similarity, embeddings, self.encoded.terms)
        return self.facts[key]

    def headless(self) -> Scores:
        """The target of the pooled features: another similarity, which explaining without the head would explain."""
        if "s_headless" not in self.facts:
            embedder, query = self.model.embedder, self.encoded.query
            with torch.no_grad(), evaluating(self.model):
                sides = [embedder.features(side.activations) for side in (query, *(t.side for t in self.encoded.terms))]
            terms = [
                replace(term, side=replace(term.side, embeddings=features))
                for term, features in zip(self.encoded.terms, sides[1:], strict=True)
            ]
            self.facts["s_headless"] = score(self.model.similarity, sides[0], tuple(terms))
        return self.facts["s_headless"]

    def region(self, name: str) -> Masks:
        """A region of the query, on the model's device."""
        return self.pairs.masks[name].to(self.model.device)


@dataclass(frozen=True)
class Explained:
    """The maps of one method on a scene: at the resolution of the images, signed, at most one in magnitude.

    `remake` is the method itself, for metrics that compare its map with that of a changed model, query or reference;
    None where maps cannot be made again (they came out of files).
    """

    scene: Scene
    maps: Maps
    explainer: str = ""
    raw: RawMaps | None = None  # as the method returned them
    remake: Remake | None = None
    answers: dict[Question, Tensor] = field(default_factory=dict)

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
        """Keep the scores that answer a question."""
        self.answers[question] = self.scene.read(embeddings, question[1])

    def scores(self, probe: "Probe", asked: Flags) -> Float[Tensor, "batch items"]:
        """The scores of a probe's images, NaN for pairs that are not asked; taken now unless they were before."""
        questions = [(probe, pair) for pair in asked.nonzero()[:, 0].tolist()]
        for question, embeddings in self.scene.encoded.passes(self.ask(questions)):
            self.hear(question, embeddings)
        found = self.scene.full().new_full((len(asked), probe.count(self.maps[0].numel())), torch.nan)
        for probe, pair in questions:
            found[pair] = self.answers[probe, pair]
        return found


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
class Metric(Protocol):
    """One value a pair; NaN where it is undefined."""

    @property
    def higher_is_better(self) -> bool | None:
        """Direction; None where there is none (a chance level)."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Regions of the query without which the metric does not apply."""
        ...

    def undefined(self, explained: Explained) -> dict[str, Flags]:
        """By reason, the pairs for which there is nothing to measure."""
        ...

    def __call__(self, explained: Explained) -> Scores:
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


def defined(values: Scores, undefined: dict[str, Flags]) -> Scores:
    """NaN where any reason holds."""
    return torch.where(torch.stack(list(undefined.values())).any(dim=0), torch.nan, values)
