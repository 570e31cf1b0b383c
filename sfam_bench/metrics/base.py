"""What a metric sees, and what it must say about itself."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sfam_bench.baselines import Baseline
from sfam_bench.models.similarity_model import SimilarityModel, evaluating
from sfam_bench.records import Encoded, PairBatch
from sfam_bench.targets import score
from sfam_bench.types import Flags, Images, Maps, Masks, Scores


@dataclass(frozen=True)
class Scene:
    """One encoded batch of pairs and what is measured of it once for all methods."""

    model: SimilarityModel
    encoded: Encoded
    pairs: PairBatch
    facts: dict[str, Scores] = field(default_factory=dict)  # s_full, s_headless, s_base_<baseline>: of the pair itself

    def score(self, images: Images) -> Scores:
        """The target for other images in the query's place."""
        with torch.no_grad(), evaluating(self.model):
            return score(self.model.similarity, self.model(images), self.encoded.terms)

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
            self.facts[key] = self.score(baseline(self.encoded.query.images))
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
    """The maps of one method on a scene: at the resolution of the images, signed, at most one in magnitude."""

    scene: Scene
    maps: Maps
    memo: dict[object, Tensor] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """What several metrics of one method share, made at its first use."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


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


def defined(values: Scores, undefined: dict[str, Flags]) -> Scores:
    """NaN where any reason holds."""
    return torch.where(torch.stack(list(undefined.values())).any(dim=0), torch.nan, values)
