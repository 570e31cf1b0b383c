"""Choose the pairs to explain deterministically from embeddings, and load them in batches."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural
from sfam_bench.core.records import PairBatch, Redrawing, Sample, pair_seed
from sfam_bench.core.references import Prototype, Supports, Vectors
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.stream import prefetch, split_chunks
from sfam_bench.core.targets import NO_RIVAL
from sfam_bench.core.types import Images, KeypointsBatch, Mask, Masks
from sfam_bench.datasets.base import CAMERA, Dataset, roles
from sfam_bench.datasets.episodes import (
    HOW,
    NEGATIVE_VECTOR,
    NEGATIVES,
    RIVAL_VECTORS,
    RIVALS,
    SUPPORTS,
    VECTOR,
)
from sfam_bench.datasets.pair_kinds import KINDS, NO_EVIDENCE, NO_PLACES, ROLES_OF, Candidates, warn_of_few_pairs

log = logging.getLogger(__name__)

SIDES = ("query", "reference")
OTHERS = ("same_class", "other_class")  # roles of further references
NO_PAIR = "{} has no pair of kind {} in this split: choose other pairs.kinds"


@dataclass(frozen=True)
class PairChoice(Checked):
    """Selects `count` pairs of each of `kinds`, spread evenly over classes, at most `per_class` queries of a class.

    `both_directions` adds each pair swapped (not for triplets), doubling the count. `others` adds two further
    references to each pair, for metrics that test whether a map depends on the reference; the pairs stay the same.
    """

    kinds: list[str] | tuple[str, ...] = ("nearest_positive",)
    count: Count = 60
    per_class: Count | None = None
    both_directions: bool = False
    seed: Natural = 0
    others: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a list in YAML
        unknown = set(self.kinds) - KINDS.keys()
        if unknown or not self.kinds or len({*self.kinds}) < len(self.kinds):
            raise UserError(
                f"pairs.kinds={list(self.kinds)}: kinds are {', '.join(KINDS)}; give one or more, each once"
            )

    def check(self, dataset: Dataset, image_ids: Sequence[str]) -> None:
        """Raise UserError if classes and roles of these images allow no pair of one of the kinds."""
        index = dataset.index.loc[list(image_ids)]
        of_query, searched = roles(index)
        in_class = pd.Series(searched).groupby(index["label"].to_numpy()).transform("sum").to_numpy()
        fits = {"positive": in_class - searched > 0, "negative": searched.sum() - in_class > 0}
        for kind in self.kinds:
            if not np.logical_and.reduce([of_query, *(fits[role] for role in ROLES_OF.get(kind, ()))]).any():
                raise UserError(NO_PAIR.format(dataset.name, kind))
            if kind == "partial_match" and not getattr(dataset, "evidence", ()):
                raise UserError(NO_EVIDENCE)
            if kind == "exchanged" and "places" not in getattr(dataset, "aspects", ()):
                raise UserError(NO_PLACES)

    def __call__(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> pd.DataFrame:
        """Choose pairs of `image_ids`, whose embeddings are the rows of `gallery`; a frame with one row per pair."""
        index = dataset.index.loc[list(image_ids)]
        frames = [self._choose(kind, index, dataset, similarity, gallery) for kind in self.kinds]
        pairs = pd.concat(frames, ignore_index=True)
        return add_controls(pairs, index, self.seed) if self.others else pairs

    def _choose(
        self, kind: str, index: pd.DataFrame, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery
    ) -> pd.DataFrame:
        random = np.random.default_rng([self.seed, *kind.encode()])
        states = tuple(getattr(dataset, "with_states", getattr(dataset, "evidence", ())))
        of_query, searched = roles(index)
        places = np.flatnonzero(of_query)
        order = [int(places[at]) for at in balanced_order(index["label"].iloc[places], random, self.per_class)]

        def find_pairs() -> Iterator[tuple[str, str, str, float]]:
            for queries in split_chunks(order, 256):
                scores = similarity.matrix(gallery[queries], gallery)
                for query, row in zip(queries, scores, strict=True):
                    among = searched & ~same_camera(index, query)
                    reference, negative = KINDS[kind](Candidates(query, row, index, states, random, among))
                    if reference is not None and (kind != "triplet" or negative is not None):
                        negative_id = "" if negative is None else index.index[negative]
                        yield index.index[query], index.index[reference], negative_id, float(row[reference])

        rows = list(islice(find_pairs(), self.count))
        if not rows:
            raise UserError(NO_PAIR.format(dataset.name, kind))
        warn_of_few_pairs(dataset.name, kind, len(rows), self.count)
        frame = pd.DataFrame(rows, columns=["query_id", "reference_id", "negative_id", "score"])
        if self.both_directions and kind != "triplet":
            if not (of_query & searched).all():
                swaps = "pairs.both_directions=true would swap them: leave it false"
                raise UserError(f"{dataset.name} separates queries from its gallery, and {swaps}")
            swapped = frame.rename(columns={"query_id": "reference_id", "reference_id": "query_id"})
            # pairs of mutual nearest neighbours would be duplicated
            frame = pd.concat([frame, swapped]).drop_duplicates(["query_id", "reference_id"], ignore_index=True)
        return add_classes(frame.assign(kind=kind), index)


def same_camera(index: pd.DataFrame, query: int) -> np.ndarray:
    """Which images are of the class and by the camera of the one at a position; none where cameras are unknown."""
    if CAMERA not in index:
        return np.zeros(len(index), dtype=bool)
    label, camera = (index[name].to_numpy() == index[name].iloc[query] for name in ("label", CAMERA))
    return label & camera


def balanced_order(labels: pd.Series, random: np.random.Generator, per_class: int | None) -> list[int]:
    """Positions in an order that visits every class once before any class again, each at most `per_class` times."""
    shuffled = random.permutation(len(labels))
    turn = labels.iloc[shuffled].groupby(labels.iloc[shuffled].to_numpy()).cumcount().to_numpy()
    order = shuffled[np.argsort(turn, kind="stable")]
    turns = np.sort(turn, kind="stable")
    return [int(position) for position, at in zip(order, turns, strict=True) if per_class is None or at < per_class]


def add_classes(frame: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Add labels and class names of query and reference."""
    for side in SIDES:
        frame[f"{side}_label"] = index["label"].loc[frame[f"{side}_id"]].to_numpy()
        frame[f"{side}_class"] = index["class_name"].loc[frame[f"{side}_id"]].to_numpy()
    return frame


def add_controls(pairs: pd.DataFrame, index: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add a random reference of the reference's class and one of neither image's class; "" if there is none.

    Each draw depends only on its pair, so that adding pairs does not change the others.
    """
    among_all = index[roles(index)[1]]
    ids, classes = among_all.index.to_numpy(), among_all["label"].to_numpy()
    found: dict[str, list[str]] = {role: [] for role in OTHERS}
    columns = (pairs[f"{side}_{what}"] for what in ("id", "label") for side in SIDES)
    for query, reference, query_label, reference_label in zip(*columns, strict=True):
        of_query, of_reference = classes == query_label, classes == reference_label
        own = np.isin(ids, [query, reference])
        for role, among in zip(OTHERS, (of_reference & ~own, ~of_reference & ~of_query), strict=True):
            random = np.random.default_rng(pair_seed(seed, query, reference, role))
            found[role].append(str(random.choice(ids[among])) if among.any() else "")
    for role, chosen in found.items():
        if missing := chosen.count(""):
            log.warning("%d of %d pairs have no further reference: %s", missing, len(pairs), role)
    return pairs.assign(**{f"{role}_id": chosen for role, chosen in found.items()})


def add_rivals(
    pairs: pd.DataFrame,
    dataset: Dataset,
    similarity: SimilarityFunction,
    gallery: Gallery,
    image_ids: Sequence[str],
) -> pd.DataFrame:
    """Replace the negative of each pair by the item nearest to the query among those of other classes than both images.

    Embeddings of `image_ids` are the rows of `gallery`. Raises UserError if a query has no such item.
    """
    index = dataset.index.loc[list(image_ids)]
    labels, searched = torch.tensor(index["label"].to_numpy()), torch.tensor(roles(index)[1])
    places = [index.index.get_loc(query_id) for query_id in pairs["query_id"]]
    found: list[str] = []
    for rows in split_chunks(range(len(pairs)), 256):
        part = pairs.iloc[list(rows)]
        scores = similarity.matrix(gallery[[places[row] for row in rows]], gallery)
        others = searched.expand(len(rows), -1).clone()
        for side in SIDES:
            others &= labels != torch.tensor(part[f"{side}_label"].to_numpy())[:, None]
        if not others.any(dim=1).all():
            raise UserError(f"{dataset.name}: {NO_RIVAL}")
        found += [index.index[place] for place in scores.masked_fill(~others, -torch.inf).argmax(dim=1).tolist()]
    return pairs.assign(negative_id=found)


def references_hash(pairs: pd.DataFrame) -> str:
    """Hash what each query is compared with, in any order: ids of reference, negative, supports, rivals; vectors."""
    ids = ["query_id", "reference_id", "negative_id", SUPPORTS, NEGATIVES, RIVALS]
    named = [*ids, VECTOR, NEGATIVE_VECTOR, RIVAL_VECTORS]
    known = pairs[[name for name in named if name in pairs]]
    rows = sorted(json.dumps(row, default=list) for row in known.to_dict("records"))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def cut_batches(pairs: pd.DataFrame, batch_size: int) -> list[pd.DataFrame]:
    """Split the pairs into batches of one kind each, in order."""
    return [
        of_kind.iloc[start : start + batch_size]
        for _, of_kind in pairs.groupby("kind", sort=False)
        for start in range(0, len(of_kind), batch_size)
    ]


def first_of_each_kind(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first pairs of each kind."""
    return pairs.groupby("kind", sort=False).head(count)


def load_batches(dataset: Dataset, frames: Sequence[pd.DataFrame]) -> Iterator[PairBatch]:
    """Load the images and regions of each batch, ahead of use."""
    return prefetch(partial(load_batch, dataset), frames)


def load_batch(dataset: Dataset, frame: pd.DataFrame) -> PairBatch:
    """Load one batch; regions are included if every pair has them, missing further references are NaN.

    Pairs of episodes have prototypes or class weights as references, and the regions that the query has with every
    support; pairs with other vectors have the query's own masks.
    """
    of_episodes = SUPPORTS in frame
    if VECTOR in frame and not of_episodes:
        return _load_vectors(dataset, frame)
    queries = [dataset.sample(image_id) for image_id in frame["query_id"]]
    shown = frame[SUPPORTS] if of_episodes else [[reference_id] for reference_id in frame["reference_id"]]
    regions = [
        common_regions(dataset, query_id, own, sample)
        for query_id, own, sample in zip(frame["query_id"], shown, queries, strict=True)
    ]
    masks, redraws = stack_common(regions), dataset if isinstance(dataset, Redrawing) else None
    if VECTOR in frame:
        return replace(_load_vectors(dataset, frame), masks=masks, redraws=redraws)
    if of_episodes:
        return PairBatch(
            query_ids=tuple(frame["query_id"]),
            reference_ids=tuple(frame["reference_id"]),
            query=torch.stack([sample.image for sample in queries]),
            reference=load_supports(dataset, frame, [*frame[SUPPORTS]]),
            negative_ids=tuple(frame["negative_id"]),
            negative=load_supports(dataset, frame, [*frame[NEGATIVES]]),
            masks=masks,
            keypoints=keypoints(queries),
            rivals=tuple(load_supports(dataset, frame, own) for own in zip(*frame.get(RIVALS, ()), strict=True)),
            redraws=redraws,
        )
    references = [dataset.sample(image_id) for image_id in frame["reference_id"]]
    negatives = [image_id for image_id in frame["negative_id"] if image_id]
    if negatives and "shared" in masks:
        unlike = zip(frame["query_id"], negatives, queries, masks["shared"], strict=True)
        masks["distinguishing"] = torch.stack([_distinguish(dataset, *triplet) for triplet in unlike])
    return PairBatch(
        query_ids=tuple(frame["query_id"]),
        reference_ids=tuple(frame["reference_id"]),
        query=torch.stack([sample.image for sample in queries]),
        reference=torch.stack([sample.image for sample in references]),
        negative_ids=tuple(negatives) or None,
        negative=torch.stack([dataset.sample(image_id).image for image_id in negatives]) if negatives else None,
        masks=masks,
        keypoints=keypoints(queries),
        reference_keypoints=keypoints(references),
        others={role: images for role in OTHERS if (images := further_references(dataset, frame, role)) is not None},
        redraws=redraws,
    )


def _load_vectors(dataset: Dataset, frame: pd.DataFrame) -> PairBatch:
    """Load one batch of pairs whose references are vectors."""
    queries = [dataset.sample(image_id) for image_id in frame["query_id"]]

    def vectors(rows: Iterable[Any]) -> Vectors:
        return Vectors(torch.tensor(np.array([*map(list, rows)]), dtype=torch.float32))

    return PairBatch(
        query_ids=tuple(frame["query_id"]),
        reference_ids=tuple(frame["reference_id"]),
        query=torch.stack([sample.image for sample in queries]),
        reference=vectors(frame[VECTOR]),
        negative_ids=tuple(frame["negative_id"]),
        negative=vectors(frame[NEGATIVE_VECTOR]),
        masks=stack_common([sample.masks for sample in queries]),
        keypoints=keypoints(queries),
        rivals=tuple(vectors(own) for own in zip(*frame.get(RIVAL_VECTORS, ()), strict=True)),
    )


def _distinguish(dataset: Dataset, query_id: str, negative_id: str, sample: Sample, shared: Mask) -> Mask:
    """What the query shares with its reference and not with the negative."""
    with_negative = dataset.regions(query_id, negative_id, sample).get("shared")
    return shared if with_negative is None else shared & ~with_negative


def load_supports(dataset: Dataset, frame: pd.DataFrame, members: Sequence[Sequence[str]]) -> Supports:
    """The supports of each pair by id, each image loaded once."""
    ids = list(dict.fromkeys(image_id for own in members for image_id in own))
    rows = {image_id: row for row, image_id in enumerate(ids)}
    images = torch.stack([dataset.sample(image_id).image for image_id in ids])
    how = Prototype(*frame[HOW].iloc[0].split())
    return Supports(images, tuple(tuple(rows[image_id] for image_id in own) for own in members), tuple(ids), how)


def common_regions(dataset: Dataset, query_id: str, reference_ids: Sequence[str], sample: Sample) -> dict[str, Mask]:
    """The regions of a query that are the same with each of some references."""
    first, *others = (dataset.regions(query_id, reference_id, sample) for reference_id in reference_ids)
    return {
        name: mask
        for name, mask in first.items()
        if all(name in found and torch.equal(mask, found[name]) for found in others)
    }


def stack_common(regions: Sequence[dict[str, Mask]]) -> dict[str, Masks]:
    """The regions that all pairs have, (batch, rows, cols) each."""
    common = [name for name in regions[0] if all(name in found for found in regions)]
    return {name: torch.stack([found[name] for found in regions]) for name in common}


def further_references(dataset: Dataset, frame: pd.DataFrame, role: str) -> Images | None:
    """The further references of one role, NaN for pairs without one; None if no pair of the batch has one."""
    ids = frame.get(f"{role}_id", pd.Series("", frame.index))
    images = {image_id: dataset.sample(image_id).image for image_id in ids.unique() if image_id}
    if not images:
        return None
    missing = torch.full_like(next(iter(images.values())), torch.nan)
    return torch.stack([images.get(image_id, missing) for image_id in ids])


def keypoints(samples: Sequence[Sample]) -> KeypointsBatch | None:
    """The keypoints of all images; None if one has none."""
    points = [sample.keypoints for sample in samples if sample.keypoints is not None]
    return torch.stack(points) if len(points) == len(samples) else None
