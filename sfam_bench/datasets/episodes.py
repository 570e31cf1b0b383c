"""N-way K-shot episodes: a query is compared with N classes, each a prototype of K supports or fitted to them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural
from sfam_bench.core.references import MEAN, Prototype
from sfam_bench.core.similarity import Gallery, SimilarityFunction, unit
from sfam_bench.core.stream import split_chunks
from sfam_bench.datasets.base import Dataset, roles
from sfam_bench.datasets.class_weights import ClassWeights, Weights
from sfam_bench.datasets.pair_kinds import check_pair_kinds, warn_of_few_pairs

log = logging.getLogger(__name__)

KINDS = ("own_class", "predicted_class", "partial_class", "shared_part")
OF_EVIDENCE = ("partial_class", "shared_part")
SUPPORTS, NEGATIVES, RIVALS, HOW = "support_ids", "negative_support_ids", "rival_ids", "prototype"  # columns of pairs
VECTOR, NEGATIVE_VECTOR, RIVAL_VECTORS = "reference_vector", "negative_vector", "rival_vectors"  # columns of pairs
TOGETHER = 256  # episodes whose classifiers are fitted in one loop

Scores = Float[Tensor, "queries ways"]


@dataclass(frozen=True)
class Episode:
    """Positions in an index: supports (ways, shots), queries (ways, queries), and the label of each way."""

    number: int
    labels: np.ndarray
    supports: np.ndarray
    queries: np.ndarray


@dataclass(frozen=True)
class Episodes(Checked):
    """`count` episodes of `ways` random classes; the class of a query is that of the most similar prototype.

    An episode depends on the seed, its number and the images alone. A support is no query of its episode. Classes with
    fewer than shots + queries images are left out.

    shots, queries: of each class.
    explained: the first episodes, of each of which one query is explained, its class in turn.
    kinds: the prototype that a query is compared with: "own_class"; "predicted_class", for queries whose prediction is
        wrong; "partial_class", a class of the episode that shares some evidence parts with the query's and differs in
        others (planted), the nearest of several; "shared_part", instead of a class, images that share with the query
        one evidence part alone (planted). Each kind takes at most one query of an episode.
    rivals: keep the supports of the other classes with each pair, for the target class_score; all are encoded.
    prototype: how supports become the reference of their class.
    classifier: fitted to the supports of each episode; its class weights are the references instead of prototypes.
    """

    ways: Count = 5
    shots: Count = 1
    queries: Count = 15
    count: Count = 600
    explained: Count = 60
    kinds: list[str] | tuple[str, ...] = ("own_class",)
    rivals: bool = False
    prototype: Prototype = field(default=MEAN)
    classifier: ClassWeights | None = None
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a list in YAML
        check_pair_kinds("episodes.kinds", self.kinds, KINDS)
        if self.ways < 2:
            raise UserError("episodes.ways=1 leaves nothing to choose from: give two or more")
        if self.classifier and self.prototype != MEAN:
            raise UserError(
                "episodes.classifier replaces prototypes: leave episodes.prototype as it is, or classifier null"
            )

    def check(self, dataset: Dataset, image_ids: Sequence[str]) -> None:
        """Raise UserError if these images allow no episode, or no pair of a kind; log how many classes are left out."""
        labels = dataset.index.loc[list(image_ids), "label"]
        if left_out := labels.nunique() - len(self.members(dataset, image_ids)):
            need = f"{self.shots} supports and {self.queries} queries"
            log.warning("%s: %d classes without %s are left out", dataset.name, left_out, need)
        for kind in {*self.kinds} & {*OF_EVIDENCE}:
            if not getattr(dataset, "evidence", ()):
                raise UserError(f"episodes.kinds={kind} needs known evidence parts: only dataset=planted has them")

    def members(self, dataset: Dataset, image_ids: Sequence[str]) -> dict[int, np.ndarray]:
        """The positions of each class with enough images; UserError if there are fewer than `ways` of them."""
        index = dataset.index.loc[list(image_ids)]
        of_query, searched = roles(index)
        labels = index["label"].to_numpy()
        every = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        found = {label: own for label, own in every.items() if self._fits(of_query[own], searched[own])}
        if len(found) < self.ways:
            raise UserError(
                f"{dataset.name} has {len(found)} classes here with {self.shots} supports and {self.queries} queries "
                f"(the largest has {max(map(len, every.values()))} images), and episodes.ways={self.ways}: lower "
                "episodes.queries, shots or ways, or add images"
            )
        return found

    def draw(self, dataset: Dataset, image_ids: Sequence[str]) -> Iterator[Episode]:
        """The episodes, as positions in `image_ids`; UserError if there are too few classes with enough images."""
        members = self.members(dataset, image_ids)
        of_query, searched = roles(dataset.index.loc[list(image_ids)])
        for number in range(self.count):
            random = np.random.default_rng([self.seed, number])
            chosen = random.choice([*members], self.ways, replace=False)
            supports, queries = [], []
            for label in chosen:
                order = random.permutation(members[label])
                own = order[searched[order]][: self.shots]
                supports.append(own)
                queries.append(order[of_query[order] & ~np.isin(order, own)][: self.queries])
            yield Episode(number, chosen, np.stack(supports), np.stack(queries))

    def _fits(self, of_query: np.ndarray, searched: np.ndarray) -> bool:
        """Whether a class has enough supports, and enough queries whichever supports are drawn."""
        lost = min(self.shots, int((of_query & searched).sum()))  # queries that may become supports
        return bool(searched.sum() >= self.shots and of_query.sum() - lost >= self.queries)

    def accuracies(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> np.ndarray:
        """The accuracy of each episode, (count,); the embeddings of `image_ids` are the rows of `gallery`."""
        answers = torch.arange(self.ways).repeat_interleave(self.queries)
        compared = self._compare(self.draw(dataset, image_ids), similarity, gallery)
        return np.array([float((scores.argmax(dim=1) == answers).double().mean()) for _, scores, _ in compared])

    def __call__(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> pd.DataFrame:
        """The pairs to explain: query, prototype, and the most similar prototype of another class as the negative.

        A frame with one row for each pair, in the columns of `PairChoice`, with the ids of the supports of reference
        and negative (lists), and if `rivals` those of each other class (lists of lists).
        """
        index = dataset.index.loc[list(image_ids)]
        evidence = list(getattr(dataset, "evidence", ()))
        rows: dict[str, list[dict[str, object]]] = {kind: [] for kind in self.kinds}
        drawn = islice(self.draw(dataset, image_ids), self.explained)
        for episode, of_queries, weights in self._compare(drawn, similarity, gallery):
            scores = of_queries.view(self.ways, self.queries, self.ways)
            for kind, found in rows.items():
                row = None
                if kind == "shared_part":
                    row = self._describe_shared(episode, index, evidence, similarity, gallery)
                elif place := self._choose(kind, episode, scores, index[evidence] if evidence else None):
                    row = self._describe(episode, index, scores[place[:2]], weights, *place)
                if row:
                    found.append({**row, "kind": kind})
        for kind, found in rows.items():
            if not found:
                raise UserError(
                    f"no query of {self.explained} episodes has a pair of kind {kind}: choose other episodes.kinds"
                )
            warn_of_few_pairs(dataset.name, kind, len(found), self.explained)
        pairs = pd.DataFrame([row for kind in self.kinds for row in rows[kind]])
        return pairs if self.classifier else pairs.assign(**{HOW: f"{self.prototype.of} {self.prototype.normalise}"})

    def _compare(
        self, episodes: Iterable[Episode], similarity: SimilarityFunction, gallery: Gallery
    ) -> Iterator[tuple[Episode, Scores, Weights | None]]:
        """Each episode, the similarity of its queries (class by class) with its classes, and fitted class weights."""
        for some in split_chunks(episodes, TOGETHER):
            supports = gallery[torch.from_numpy(np.stack([episode.supports for episode in some]))]
            fitted: Sequence[Weights | None] = [None] * len(some)
            if self.classifier:
                seeds = [(self.seed, episode.number, 2) for episode in some]
                fitted = [*self.classifier.fit(similarity, supports, seeds)]
            for episode, own, weights in zip(some, supports, fitted, strict=True):
                queries = gallery[torch.from_numpy(episode.queries.flatten())]
                if weights is None:
                    yield episode, score_classes(similarity, self.prototype, queries, own), None
                else:
                    yield episode, similarity.matrix(queries, weights), weights

    def _choose(
        self, kind: str, episode: Episode, scores: Tensor, evidence: pd.DataFrame | None
    ) -> tuple[int, int, int] | None:
        """The class and the number of a query, and the class of its reference; None if there is none of the kind."""
        ways = [(episode.number + k) % self.ways for k in range(self.ways)]  # so that classes take turns
        if kind == "own_class":
            return ways[0], 0, ways[0]
        for way in ways:
            if kind == "predicted_class":
                predicted = scores[way].argmax(dim=1)
                if len(wrong := (predicted != way).nonzero()[:, 0]):
                    return way, int(wrong[0]), int(predicted[wrong[0]])
            elif evidence is not None:
                states = evidence.to_numpy()
                alike = states[episode.supports] == states[episode.queries[way, 0]]  # ways, shots, parts
                shared = alike.all(axis=1).sum(axis=1)
                differing = (~alike).all(axis=1).sum(axis=1)
                some = torch.from_numpy((shared > 0) & (differing > 0) & (shared + differing == states.shape[1]))
                if some.any():
                    return way, 0, int(scores[way, 0].masked_fill(~some, -torch.inf).argmax())
        return None

    def _describe_shared(
        self,
        episode: Episode,
        index: pd.DataFrame,
        evidence: list[str],
        similarity: SimilarityFunction,
        gallery: Gallery,
    ) -> dict[str, object] | None:
        """A query, and supports that share one of its parts alone, in place of those of its class; None if too few.

        Classes and parts take turns. Each state of the other part comes once among the supports before any again.
        """
        way, part = episode.number % self.ways, evidence[episode.number % len(evidence)]
        states, query = index[evidence], episode.queries[way, 0]
        alike = (states == states.iloc[query]).to_numpy()
        fits = alike[:, evidence.index(part)] & (alike.sum(axis=1) == 1) & roles(index)[1]
        order = np.random.default_rng([self.seed, episode.number, 1]).permutation(np.flatnonzero(fits))
        turns = states.iloc[order].groupby(evidence).cumcount().to_numpy()
        own = order[np.argsort(turns, kind="stable")][: self.shots]
        if len(own) < self.shots:
            return None
        supports = episode.supports.copy()
        supports[way] = own
        changed = replace(episode, supports=supports)
        ((_, scores, weights),) = self._compare([changed], similarity, gallery)
        of_query = scores.view(self.ways, self.queries, self.ways)[way, 0]
        shared = {"reference_label": -1, "reference_class": f"{part} {states[part].iloc[query]}"}  # several classes
        return {**self._describe(changed, index, of_query, weights, way, 0, way), **shared}

    def _describe(
        self,
        episode: Episode,
        index: pd.DataFrame,
        scores: Tensor,
        weights: Weights | None,
        way: int,
        number: int,
        reference: int,
    ) -> dict[str, object]:
        ids, classes = index.index.to_numpy(), index["class_name"].to_numpy()
        supports = [[str(ids[at]) for at in own] for own in episode.supports]
        others = scores.clone()
        others[reference] = -torch.inf
        negative, query = int(others.argmax()), episode.queries[way, number]
        rest = [k for k in range(self.ways) if k != reference]
        fitted: dict[str, object] = {}
        if weights is not None:
            rows = weights.double().tolist()
            fitted = {VECTOR: rows[reference], NEGATIVE_VECTOR: rows[negative]}
            fitted |= {RIVAL_VECTORS: [rows[k] for k in rest]} if self.rivals else {}
        return {
            "query_id": str(ids[query]),
            "reference_id": _name(episode, reference),
            "negative_id": _name(episode, negative),
            "score": float(scores[reference]),
            "query_label": int(episode.labels[way]),
            "query_class": classes[query],
            "reference_label": int(episode.labels[reference]),
            "reference_class": classes[episode.supports[reference, 0]],
            "episode": episode.number,
            "predicted_label": int(episode.labels[int(scores.argmax())]),
            SUPPORTS: supports[reference],
            NEGATIVES: supports[negative],
            **({RIVALS: [supports[k] for k in rest]} if self.rivals else {}),
            **fitted,
        }


def score_classes(
    similarity: SimilarityFunction, how: Prototype, queries: Gallery, supports: Float[Tensor, "ways shots dims"]
) -> Scores:
    """The similarity of each query with the prototype of each class."""
    (ways, shots, _), count = supports.shape, len(queries)
    flat = supports.flatten(0, 1)
    if how.of == "nearest":  # a prototype for each query and class
        nearest = similarity.matrix(queries, flat).view(count, ways, shots).argmax(dim=2)
        prototypes = supports[torch.arange(ways), nearest].flatten(0, 1)
        prototypes = prototypes if how.normalise == "never" else unit(prototypes)
        return similarity(queries.repeat_interleave(ways, dim=0), prototypes).view(count, ways)
    pairs = torch.arange(ways).repeat_interleave(shots)
    shares = how.shares(similarity, supports[:, 0], flat, pairs)
    prototypes = torch.zeros_like(supports[:, 0]).index_add(0, pairs, flat * shares[:, None])
    return similarity.matrix(queries, prototypes)


def _name(episode: Episode, way: int) -> str:
    return f"episode {episode.number} class {episode.labels[way]}"
