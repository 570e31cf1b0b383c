"""Pairs of a query image and a vector: the proxy of a class, or an item of a gallery of vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural
from sfam_bench.core.references import NamedVectors, Vectors
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.datasets.base import Dataset, roles
from sfam_bench.datasets.episodes import NEGATIVE_VECTOR, RIVAL_VECTORS, VECTOR
from sfam_bench.datasets.pair_kinds import check_pair_kinds, warn_of_few_pairs
from sfam_bench.datasets.pairs import balanced_order

KINDS = ("own_class", "nearest", "nearest_other")
NO_CLASS = -1  # the label of a vector whose name is no class of the data set


@dataclass(frozen=True)
class VectorPairs(Checked):
    """Compares `count` queries of each of `kinds` with vectors, spread evenly over classes.

    A vector that has the name of a class stands for this class; one that has the id of an image for that image, and it
    is no reference of its own query. The negative is the most similar vector of another name and class.

    vectors: of two names or more; each centre of a class is a vector of its own.
    kinds: the vector that a query is compared with: "own_class", the most similar one of its class; "nearest", the most
        similar of all; "nearest_other", the most similar one of another class.
    per_class: at most as many queries of a class.
    rivals: keep the vectors of all other names with each pair, for the target class_score.

    Raises:
        UserError: if a kind is unknown, or a vector is zero, NaN or infinite.
    """

    vectors: NamedVectors
    kinds: list[str] | tuple[str, ...] = ("own_class",)
    count: Count = 60
    per_class: Count | None = None
    rivals: bool = False
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a list in YAML
        check_pair_kinds("vectors.kinds", self.kinds, KINDS)
        if len({*self.vectors.names}) < 2:
            raise UserError("the vectors have one name: give two or more to choose from")
        Vectors(self.vectors.vectors)

    def check(self, dataset: Dataset, image_ids: Sequence[str]) -> None:
        """Raise UserError if kind "own_class" is wanted and a query's class has no vector."""
        index = dataset.index.loc[list(image_ids)]
        classes = index["class_name"][roles(index)[0]].unique()
        missing = sorted({*classes} - {*self._classes(dataset)})
        if "own_class" in self.kinds and missing:
            known = ", ".join(sorted({*self.vectors.names})[:3])
            raise UserError(
                f"{len(missing)} of {len(classes)} classes have no vector, such as {missing[0]!r}; the vectors are of "
                f"{known}, ...: explain images of these classes (split), or choose other vectors.kinds"
            )

    def example(self, dataset: Dataset, image_ids: Sequence[str]) -> pd.DataFrame:
        """A pair that is chosen without embeddings."""
        query, names = dataset.index.loc[list(image_ids)].iloc[0], np.array(self.vectors.names)
        return pd.DataFrame([self._describe(query, 0, int((names != names[0]).argmax()))])

    def __call__(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> pd.DataFrame:
        """Choose pairs of `image_ids`, whose embeddings are the rows of `gallery`; a frame with one row per pair.

        Raises UserError if vectors and embeddings differ in length, or a kind has no pair.
        """
        dims = self.vectors.vectors.shape[1]
        if gallery.shape[1] != dims:
            raise UserError(f"vectors have {dims} dimensions, embeddings {gallery.shape[1]}: take those of this model")
        index, classes = dataset.index.loc[list(image_ids)], self._classes(dataset)
        labels = dict(zip(dataset.index["class_name"].astype(str), dataset.index["label"], strict=True))
        places = np.flatnonzero(roles(index)[0])
        order = balanced_order(index["label"].iloc[places], np.random.default_rng(self.seed), self.per_class)

        def find_pairs(kind: str) -> Iterator[dict[str, object]]:
            for place in places[order]:
                query = index.iloc[place]
                scores = similarity.matrix(gallery[[place]], self.vectors.vectors.to(gallery))[0].double().cpu().numpy()
                if found := self._choose(kind, query, scores, classes):
                    reference, negative = found
                    yield self._describe(query, reference, negative) | {
                        "score": float(scores[reference]),
                        "kind": kind,
                        "query_label": int(query["label"]),
                        "query_class": query["class_name"],
                        "reference_label": int(labels.get(classes[reference], NO_CLASS)),
                        "reference_class": classes[reference],
                    }

        rows = {kind: [*islice(find_pairs(kind), self.count)] for kind in self.kinds}
        for kind, found in rows.items():
            if not found:
                raise UserError(f"{dataset.name} has no pair of kind {kind} with them: choose other vectors.kinds")
            warn_of_few_pairs(dataset.name, kind, len(found), self.count)
        return pd.DataFrame([row for found in rows.values() for row in found])

    def _classes(self, dataset: Dataset) -> np.ndarray:
        """The class of each vector, "" for one whose name is neither a class nor an image."""
        known = {str(image_id): str(name) for image_id, name in dataset.index["class_name"].items()}
        known |= {name: name for name in known.values()}
        return np.array([known.get(name, "") for name in self.vectors.names])

    def _choose(self, kind: str, query: pd.Series, scores: np.ndarray, classes: np.ndarray) -> tuple[int, int] | None:
        """The places of reference and negative among the vectors; None if there is none."""
        names, own = np.array(self.vectors.names), classes == str(query["class_name"])
        among = names != str(query.name)
        reference = _best(scores, among & {"own_class": own, "nearest": True, "nearest_other": ~own}[kind])
        if reference is None:
            return None
        alike = (names == names[reference]) | ((classes == classes[reference]) & (classes != ""))
        negative = _best(scores, among & ~alike)
        return None if negative is None else (reference, negative)

    def _describe(self, query: pd.Series, reference: int, negative: int) -> dict[str, object]:
        names, rows = self.vectors.names, self.vectors.vectors.double().tolist()
        others = [row for name, row in zip(names, rows, strict=True) if name != names[reference]]
        return {
            "query_id": str(query.name),
            "reference_id": names[reference],
            "negative_id": names[negative],
            VECTOR: rows[reference],
            NEGATIVE_VECTOR: rows[negative],
            **({RIVAL_VECTORS: others} if self.rivals else {}),
        }


def _best(scores: np.ndarray, among: np.ndarray) -> int | None:
    return int(np.where(among, scores, -np.inf).argmax()) if among.any() else None
