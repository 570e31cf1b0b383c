"""Pairs of queries and vectors: which vector, which negative, which refusals."""

import numpy as np
import pandas as pd
import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.references import NamedVectors, Vectors
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.batches import load_batch
from sfam_bench.datasets.pairs import references_hash
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.vector_pairs import VectorPairs

DATASET = Planted(size=32, train_per_class=1, test_per_class=2)
IDS = [str(image_id) for image_id in DATASET.index.index[DATASET.index["split"] == "test"]]
CLASSES = list(DATASET.index.loc[IDS, "class_name"].unique())
PLACES = DATASET.index.loc[IDS, "class_name"].map(CLASSES.index).tolist()
EMBEDDINGS = torch.eye(len(CLASSES))[PLACES] + 0.1  # each image lies on the axis of its class
AXES = torch.eye(len(CLASSES)) + 0.01 * torch.arange(len(CLASSES))[:, None].flip(0)  # negatives are ordered
PROXIES = NamedVectors(tuple(CLASSES), AXES)


def choose(vectors: NamedVectors = PROXIES, **fields: object) -> pd.DataFrame:
    made = VectorPairs(vectors, **{"count": 4, **fields})
    made.check(DATASET, IDS)
    return made(DATASET, Cosine(), EMBEDDINGS, IDS)


def test_each_kind_takes_the_most_similar_vector_that_it_may() -> None:
    pairs = choose(kinds=["own_class", "nearest", "nearest_other"])
    assert pairs["kind"].value_counts().to_dict() == {"own_class": 4, "nearest": 4, "nearest_other": 4}
    for pair in pairs.itertuples():
        scores = Cosine().matrix(EMBEDDINGS[[IDS.index(pair.query_id)]], AXES)[0].numpy()
        own = CLASSES.index(pair.query_class)
        allowed = {"own_class": [own], "nearest": range(len(CLASSES))}.get(
            pair.kind, [place for place in range(len(CLASSES)) if place != own]
        )
        reference = CLASSES.index(pair.reference_id)
        assert scores[reference] == max(scores[place] for place in allowed)
        assert pair.score == pytest.approx(scores[reference])
        assert pair.reference_class == pair.reference_id
        assert CLASSES.index(pair.negative_id) == int(
            np.where(np.arange(len(CLASSES)) == reference, -9, scores).argmax()
        )
        assert pair.reference_vector == pytest.approx(AXES[reference].tolist())
    assert pairs[pairs["kind"] == "own_class"]["query_class"].nunique() == 4  # spread over classes


def test_a_batch_holds_the_vectors_of_its_pairs_also_after_storage(tmp_path: object) -> None:
    pairs = choose(rivals=True)
    pairs.to_parquet(f"{tmp_path}/pairs.parquet")
    stored = pd.read_parquet(f"{tmp_path}/pairs.parquet")
    assert references_hash(stored) == references_hash(pairs)
    batch = load_batch(DATASET, stored)
    assert isinstance(batch.reference, Vectors)
    expected = AXES[[CLASSES.index(name) for name in pairs["reference_id"]]]
    assert torch.allclose(batch.reference.embeddings, expected)
    assert len(batch.rivals) == len(CLASSES) - 1
    assert "foreground" in batch.masks
    other = pairs.assign(reference_vector=[[9.0, *vector[1:]] for vector in pairs["reference_vector"]])
    assert references_hash(other) != references_hash(stored)


def test_an_item_of_a_gallery_is_no_reference_of_itself() -> None:
    pairs = choose(NamedVectors(tuple(IDS), EMBEDDINGS), kinds=["nearest"], count=len(IDS))
    assert (pairs["query_id"] != pairs["reference_id"]).all()
    assert (pairs["query_class"] == pairs["reference_class"]).all()  # two images of each class
    assert (pairs["negative_id"].map(DATASET.index["class_name"]) != pairs["reference_class"]).all()


def test_vectors_without_a_class_have_none() -> None:
    pairs = choose(NamedVectors(tuple(f"text {k}" for k in range(len(CLASSES))), AXES), kinds=["nearest"])
    assert set(pairs["reference_class"]) == {""}
    assert set(pairs["reference_label"]) == {-1}


@pytest.mark.parametrize(
    ("vectors", "fields", "why"),
    [
        (NamedVectors(("a", "b"), torch.ones(2, len(CLASSES))), {}, "classes have no vector, such as"),
        (NamedVectors(("a", "a"), torch.ones(2, len(CLASSES))), {"kinds": ["nearest"]}, "the vectors have one name"),
        (NamedVectors(("a", "b"), torch.zeros(2, len(CLASSES))), {"kinds": ["nearest"]}, "vector 0 is all zeros"),
        (
            NamedVectors(("a", "b"), torch.ones(2, 3)),
            {"kinds": ["nearest"]},
            "vectors have 3 dimensions, embeddings 48",
        ),
        (PROXIES, {"kinds": ["own"]}, "kinds are own_class, nearest, nearest_other"),
        (PROXIES, {"count": 0}, "count"),
    ],
)
def test_what_cannot_be_compared_is_refused(vectors: NamedVectors, fields: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=why):
        choose(vectors, **fields)
