"""A batch of pairs with the values that are computed once for all methods."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Reference
from sfam_bench.core.targets import linear_part, score, swap_sides
from sfam_bench.core.types import Embeddings, Images, Masks, Scores
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.similarity_model import SimilarityModel, encode_reference
from sfam_bench.retrieval.recall import FOUND, Catalogue


@dataclass(frozen=True)
class Scene:
    """One encoded batch of pairs, with values that are computed once; `gallery` on the model's device."""

    model: SimilarityModel
    encoded: Encoded
    pairs: PairBatch
    gallery: Catalogue | None = None
    cache: Cache = field(default_factory=Cache, compare=False, repr=False)  # by names and arguments

    @property
    def facts(self) -> dict[str, Scores]:
        """The values of the pairs that were computed so far: s_full, s_headless, s_base_<baseline>, effect_<part>."""
        return {key[1]: value for key, value in self.cache.items() if isinstance(key, tuple) and key[0] == "fact"}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The values read for each changed query: the target, and those that need negatives or a gallery."""
        return "score", *(["margin"] * (self.pairs.negative is not None)), *(FOUND if self.gallery is not None else ())

    @cached_property
    def negative(self) -> Embeddings:
        """Embeddings of the negatives."""
        if len(self.encoded.terms) > 1:
            return self.encoded.terms[1].side.embeddings
        if self.pairs.negative is None:
            raise ValueError("these pairs have no negatives")
        return encode_reference(self.model, self.encoded.query, self.pairs.negative).embeddings

    @cached_property
    def swapped(self) -> "Scene":
        """The same pairs with query and reference swapped."""
        pairs = self.pairs
        other = PairBatch(
            query_ids=pairs.reference_ids,
            reference_ids=pairs.query_ids,
            query=self.encoded.terms[0].side.side_for("a swapped pair").images,
            reference=pairs.query,
            keypoints=pairs.reference_keypoints,
            reference_keypoints=pairs.keypoints,
            redraws=pairs.redraws,
        )
        return Scene(self.model, swap_sides(self.encoded), other)

    def readings(self, embeddings: Embeddings, pair: int) -> Float[Tensor, "items columns"]:
        """All `columns` of changed versions of one pair's query."""
        read = [self.read(embeddings, pair)[:, None]]
        if "margin" in self.columns:
            sides = self.encoded.terms[0].side.embeddings[pair], self.negative[pair]
            near, far = (self.model.similarity(embeddings, side.expand_as(embeddings)) for side in sides)
            read.append((near - far)[:, None])
        if self.gallery is not None:
            ids = self.pairs.query_ids[pair], self.pairs.reference_ids[pair]
            read.append(self.gallery.find(self.model.similarity, embeddings, *ids))
        return torch.cat(read, dim=1)

    def reading(self, embeddings: Embeddings, name: str) -> Scores:
        """One column of one changed version of each query; all columns are computed once."""
        rows = self.cache.once(
            ("reading", embeddings),
            lambda: torch.stack([self.readings(row[None], pair)[0] for pair, row in enumerate(embeddings)]),
        )
        return rows[:, self.columns.index(name)]

    def read(self, embeddings: Embeddings, pair: int) -> Scores:
        """The target of changed versions of one pair's query."""
        pairs = torch.full((len(embeddings),), pair, device=embeddings.device)
        return score(self.model.similarity, embeddings, self.encoded.terms, pairs)

    def without(self, baseline: Baseline) -> Images:
        """The baseline images of the queries."""
        return self.cache.once(("without", baseline), lambda: baseline(self.encoded.query.images))

    def full(self) -> Scores:
        """The target of the unchanged queries."""
        query, terms = self.encoded.query.embeddings, self.encoded.terms
        return self.cache.once(("fact", "s_full"), lambda: score(self.model.similarity, query, terms))

    def linear(self) -> Scores:
        """What an additive map sums to: the target, or its linear part (`core.targets.linear_part`)."""
        return linear_part(self.model.similarity, self.encoded.query.embeddings, self.encoded.terms)

    def base(self, baseline: Baseline) -> Scores:
        """The target of the baseline images."""
        terms = self.encoded.terms
        name = f"s_base_{baseline.name}"
        if self.cache.once(("named", name), lambda: baseline) != baseline:
            raise UserError(
                f"two baselines that are not equal have the name {baseline.name}, so that {name} would be of either: "
                "give each its own name; baselines of your own compare equal if they are frozen dataclasses"
            )
        return self.cache.once(("fact", name), lambda: score(self.model.similarity, self.bare(baseline), terms))

    def range(self, baseline: Baseline) -> Scores:
        """The target of the queries minus that of their baseline images."""
        return self.full() - self.base(baseline)

    def bare(self, baseline: Baseline) -> Embeddings:
        """The embeddings of the baseline images."""

        def embed() -> Embeddings:
            with torch.no_grad(), evaluating(self.model):
                return self.model(self.without(baseline))

        return self.cache.once(("bare", baseline), embed)

    def headless(self) -> Scores:
        """The target of the pooled features: the similarity that methods which ignore the head explain."""
        return self.cache.once(("fact", "s_headless"), self._headless)

    @property
    def has_images(self) -> bool:
        """Whether every reference was made of images, and none is a bare vector."""
        return all(reference.blend is not None for term in self.encoded.terms for reference in term.references)

    def _headless(self) -> Scores:
        with torch.no_grad(), evaluating(self.model):
            query = self.model.embedder.features(self.encoded.query.activations)
            terms = [
                replace(term, side=self._pooled(term.side), rivals=tuple(map(self._pooled, term.rivals)))
                for term in self.encoded.terms
            ]
        return score(self.model.similarity, query, tuple(terms))

    def _pooled(self, reference: Reference) -> Reference:
        """The same images and shares, with pooled features in place of embeddings."""
        blend = reference.images_for("the similarity without a head")
        features = self.model.embedder.features(blend.side.activations)[blend.rows]
        return Reference(blend.add(features, blend.shares, len(reference.embeddings)))

    def has(self, need: str) -> bool:
        """Whether the batch provides what a metric needs."""
        return self.gallery is not None if need == "gallery" else self.pairs.has(need)

    def region(self, name: str) -> Masks:
        """A region of the query, on the model's device."""
        return self.pairs.masks[name].to(self.model.device)
