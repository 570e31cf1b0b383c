"""Choose the pairs to explain deterministically from embeddings."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural
from sfam_bench.core.records import pair_seed
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.stream import split_chunks
from sfam_bench.core.targets import NO_RIVAL
from sfam_bench.datasets.base import CAMERA, Dataset, roles
from sfam_bench.datasets.episodes import NEGATIVE_VECTOR, NEGATIVES, RIVAL_VECTORS, RIVALS, SUPPORTS, VECTOR
from sfam_bench.datasets.pair_kinds import (
    KINDS,
    NO_EVIDENCE,
    NO_PLACES,
    ROLES_OF,
    Candidates,
    check_pair_kinds,
    warn_of_few_pairs,
)

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
        check_pair_kinds("pairs.kinds", self.kinds, KINDS)

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

    A role for which no pair has one has no column.
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
    return pairs.assign(**{f"{role}_id": chosen for role, chosen in found.items() if any(chosen)})


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
