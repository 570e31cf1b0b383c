"""The intervention check on pictures so plain that an embedding by hand can read one part of them."""

from dataclasses import dataclass

import pytest
import torch

from sfam_bench.core.records import Sample
from sfam_bench.core.types import Embeddings, Images
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.scene import PARTS, STATES, PlantedScene
from sfam_bench.datasets.planted.worlds import Relation
from sfam_bench.evaluation.intervention import intervention_check, intervention_facts, why_not


@dataclass(frozen=True)
class Plain(Planted):
    """Each part is one pixel of the first row: its state, or its look, as a grey value."""

    def _sample(self, scene: PlantedScene) -> Sample:
        image, looks = torch.zeros(3, 1, len(PARTS)), dict(scene.variants)
        for place, part in enumerate(PARTS):
            state = getattr(scene, part, None)
            image[:, 0, place] = looks.get(part, 0) % 97 / 97 if state is None else state / STATES
        return Sample(image)


SET = Plain(train_per_class=1, test_per_class=2)


def reader(**weights: float):
    """An embedding of the states of the named parts alone."""

    def embed(images: Images) -> Embeddings:
        codes = []
        for part, weight in weights.items():
            states = (images[:, 0, 0, PARTS.index(part)] * STATES).round().long()
            codes.append(weight * torch.eye(97)[states])
        return torch.cat(codes, dim=1)

    return embed


def flips(embed, count: int = 40, seed: int = 0) -> dict[str, float]:
    return intervention_check(embed, SET, count, seed).set_index("part")["flips"].to_dict()


@pytest.mark.parametrize("part", SET.evidence)
def test_an_embedding_of_one_part_flips_with_that_part_only(part: str) -> None:
    shares = flips(reader(**{part: 1.0}))
    assert shares.pop(part) == 1.0
    assert set(shares.values()) == {0.0}


def test_an_embedding_of_both_parts_flips_with_either() -> None:
    shares = flips(reader(crest=2.0, tail=1.0))
    assert shares["crest"] == 1.0  # any bird with the new crest is nearer than all of the old class
    assert shares["tail"] > 0.2  # the new combination may not be in the gallery: the old class may stay the nearest
    assert all(shares[part] == 0.0 for part in PARTS if part not in SET.evidence)


def test_an_embedding_of_something_else_never_flips_with_the_evidence() -> None:
    frame = intervention_check(lambda images: torch.ones(len(images), 2), SET, 10, 0)
    assert frame["flips"].eq(0).all()


def test_the_frame_has_one_row_a_part_and_the_same_queries_for_all() -> None:
    frame = intervention_check(reader(crest=1.0, tail=1.0), SET, 7, 3)
    assert list(frame.columns) == ["part", "evidence", "flips", "count"]
    assert tuple(frame["part"]) == PARTS
    assert set(frame.loc[frame["evidence"], "part"]) == set(SET.evidence)
    assert frame["count"].eq(7).all()
    assert frame.equals(intervention_check(reader(crest=1.0, tail=1.0), SET, 7, 3))


def test_without_a_right_query_the_share_is_nan_and_the_count_zero() -> None:
    alone = Plain(train_per_class=1, test_per_class=1)  # no other image of the class can be retrieved
    frame = intervention_check(reader(crest=1.0, tail=1.0), alone, 5, 0)
    assert frame["count"].eq(0).all()
    assert frame["flips"].isna().all()


def test_real_pictures_run_through() -> None:
    small = Planted(size=32, train_per_class=1, test_per_class=2)
    frame = intervention_check(lambda images: torch.nn.functional.avg_pool2d(images, 8).flatten(1), small, 3, 0)
    assert frame["flips"].between(0, 1).all()
    assert frame["count"].max() <= 3


def test_a_model_counts_if_every_cause_flips_and_no_other_part_does() -> None:
    frame = intervention_check(reader(crest=1.0, tail=1.0), SET, 20)
    good = frame.assign(flips=frame["evidence"] * 0.9)
    assert why_not(good, SET) == ""
    weak = good.assign(flips=good["flips"].where(good["part"] != "tail", 0.2))
    assert why_not(weak, SET) == "repainting the tail changes 20% of the retrieved classes, not 50%"
    leak = good.assign(flips=good["flips"].where(good["part"] != "wing", 0.5))
    assert why_not(leak, SET).startswith("repainting the wing, on which no class depends, changes 50%")
    assert why_not(good.assign(flips=float("nan")), SET) == "it retrieves the class of no query"


def test_an_exchange_of_places_is_repainted_too_and_changes_no_part_alone() -> None:
    @dataclass(frozen=True)
    class PlainRelation(Plain, Relation):
        """Relation, of whose images each part is one pixel."""

    world = PlainRelation(train_per_class=1, test_per_class=2)
    by_place, anywhere = (
        reader(crest=1.0, tail=1.0),
        lambda images: reader(crest=1.0)(images) + reader(tail=1.0)(images),
    )
    rows = {}
    for name, embed in {"by place": by_place, "anywhere": anywhere}.items():
        frame = intervention_check(embed, world, 40)
        rows[name] = frame.set_index("part")["flips"]
        assert set(frame.loc[frame["evidence"], "part"]) == {"crest", "tail", "places"}
    assert rows["by place"]["places"] == 1
    assert why_not(intervention_check(by_place, world, 40), world) == ""
    assert rows["anywhere"]["places"] < 0.8  # the twin is as near as the class
    assert intervention_facts(intervention_check(by_place, world, 10), world)["states"] == ["crest", "tail", "places"]
