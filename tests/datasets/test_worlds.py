"""The worlds beyond the default set: pictures that do not change, what goes with the class, and what is redrawn."""

import hashlib

import numpy as np
import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Redrawing
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.batches import load_batch
from sfam_bench.datasets.pairs import SIDES, PairChoice
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.scene import CHANNELS, EVIDENCE, PARTS, STATES, join_channels, split_channels
from sfam_bench.datasets.planted.worlds import Channel, Crowd, Relation, Scale, Shortcut

PARTIAL = Planted(train_per_class=2, test_per_class=2, evidence_size=0.75, leaves=1, clutter=2)
SHORTCUT, CLEAN = (Shortcut(train_per_class=2, test_per_class=2, share=share) for share in (1.0, 0.0))
SCALE = Scale(train_per_class=2, test_per_class=2)
CROWD = Crowd(train_per_class=2, test_per_class=2)
CHANNEL = Channel(train_per_class=4, test_per_class=4)
RELATION = Relation(train_per_class=2, test_per_class=2)
GOLDEN = {
    "channel": "63191bf06e261e74",
    "relation": "3a9ea08380954b17",
    "crowd": "015dabddaa913a03",
    "partial": "f698a023677236f7",
    "shortcut": "2594191a2f858920",
    "scale": "ff9275814a01fccf",
}
WORLDS = {
    "partial": PARTIAL,
    "shortcut": SHORTCUT,
    "scale": SCALE,
    "crowd": CROWD,
    "channel": CHANNEL,
    "relation": RELATION,
}


def area(world: Planted, image_id: str) -> float:
    """The share of the image that crest and tail cover."""
    masks = world.sample(image_id).masks
    return float((masks["part/crest"] | masks["part/tail"]).float().mean())


@pytest.mark.parametrize("name", WORLDS)
def test_the_pictures_of_a_world_do_not_change(name: str) -> None:
    world, pixels = WORLDS[name], hashlib.sha256()
    for image_id in world.index.index[::48]:
        pixels.update(np.asarray(world.image(image_id)).tobytes())
    assert pixels.hexdigest()[:16] == GOLDEN[name]


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_a_data_set_that_can_be_redrawn(name: str) -> None:
    world, image_id = WORLDS[name], WORLDS[name].index.index[0]
    assert isinstance(world, Dataset)
    assert isinstance(world, Redrawing)
    before = world.sample(image_id).image
    for part in (*world.parts, *world.aspects):
        assert not torch.equal(world.redraw(image_id, (part,), 0), before), part
        assert torch.equal(world.redraw(image_id, (part,), 1), world.redraw(image_id, (part,), 1))
    assert set(world.causes) <= {*world.parts, *world.aspects}


def test_evidence_is_smaller_and_partly_covered_in_the_harder_world() -> None:
    usual, ids = Planted(train_per_class=2, test_per_class=2), PARTIAL.index.index[::15]
    assert np.mean([area(PARTIAL, i) for i in ids]) < 0.65 * np.mean([area(usual, i) for i in ids])
    pixels = [world.sample(ids[0]).masks["foreground"].sum() for world in (PARTIAL, usual)]
    assert pixels[0] < pixels[1]


def test_the_habitat_goes_with_the_tail_in_training_only() -> None:
    train, test = (SHORTCUT.index[SHORTCUT.index["split"] == split] for split in ("train", "test"))
    assert (train["background"] == train["tail"]).all()
    assert (test["background"] == test["tail"]).mean() < 0.25
    assert set(test["background"]) == set(range(STATES))
    assert (CLEAN.index["background"] == CLEAN.index["tail"]).mean() < 0.2
    half = Shortcut(train_per_class=8, test_per_class=0, share=0.5).index
    assert (half["background"] == half["tail"]).mean() == pytest.approx(0.5 + 0.5 / STATES, abs=0.05)


def test_test_images_do_not_depend_on_the_share() -> None:
    image_id = SHORTCUT.index.index[SHORTCUT.index["split"] == "test"][3]
    assert torch.equal(SHORTCUT.sample(image_id).image, CLEAN.sample(image_id).image)


def test_a_redrawn_background_changes_no_pixel_of_the_bird_and_takes_every_other_habitat() -> None:
    image_id = SHORTCUT.index.index[0]
    own, bird = SHORTCUT.sample(image_id), SHORTCUT.sample(image_id).masks["foreground"]
    inside = torch.nn.functional.avg_pool2d(bird.float()[None], 3, 1, 1)[0] == 1  # less the anti-aliased rim
    drawn = [SHORTCUT.redraw(image_id, ("background",), number) for number in range(STATES - 1)]
    assert all(torch.equal(image[:, inside], own.image[:, inside]) for image in drawn)
    assert len({image.sum().item() for image in drawn}) == STATES - 1
    assert torch.equal(own.masks["part/background"], ~bird)


def test_regions_of_the_shortcut_have_the_background() -> None:
    query, reference = SHORTCUT.index.index[:2]
    regions = SHORTCUT.regions(query, reference, SHORTCUT.sample(query))
    assert torch.equal(regions["background"], ~regions["foreground"])
    assert "background" not in PARTS
    assert SHORTCUT.causes == ("background",)
    assert CLEAN.causes == EVIDENCE


def test_evidence_covers_from_one_to_thirty_percent() -> None:
    shares = {scale: area(SCALE, ids[0]) for scale, ids in SCALE.index.groupby("scale").groups.items()}
    assert list(shares) == [0.35, 0.55, 0.85, 1.3, 2.0]
    assert min(shares.values()) < 0.015
    assert max(shares.values()) > 0.2
    test = SCALE.index[SCALE.index["split"] == "test"]
    assert test["scale"].nunique() == 5


def test_of_two_birds_one_has_the_class_and_the_other_is_redrawn_as_a_whole() -> None:
    for image_id in CROWD.index.index[::40]:
        own, masks = CROWD.sample(image_id).image, CROWD.sample(image_id).masks
        bird, other = masks["foreground"], masks["part/other"]
        assert min(bird.float().mean(), other.float().mean()) > 0.03
        assert not (bird & other).any()
        inside = torch.nn.functional.avg_pool2d(bird.float()[None], 3, 1, 1)[0] == 1
        drawn = [CROWD.redraw(image_id, ("other",), number) for number in range(2)]
        assert not torch.equal(drawn[0], drawn[1])
        assert all(torch.equal(image[:, inside], own[:, inside]) for image in drawn)
    others = [CROWD._scene(image_id).other for image_id in CROWD.index.index[::8]]
    assert len({other.crest for other in others}) > 8
    assert all(other.earthy for other in others)  # colours of no class tell which bird is meant


def test_partial_matches_of_the_shortcut_may_share_the_background_alone() -> None:
    ids = SHORTCUT.index.index[SHORTCUT.index["split"] == "test"]
    pairs = PairChoice(("partial_match",), 60)(SHORTCUT, Cosine(), torch.ones(len(ids), 2), list(ids))
    sides = [SHORTCUT.index.loc[pairs[f"{side}_id"], list(SHORTCUT.with_states)].to_numpy() for side in SIDES]
    shared = sides[0] == sides[1]
    assert set(shared.sum(axis=1)) <= {1, 2}
    assert (shared[:, 2] & ~shared[:, :2].any(axis=1)).any()


def test_classes_of_the_channels_are_their_combinations_and_every_state_is_trained() -> None:
    train, test = (CHANNEL.index[CHANNEL.index["split"] == split] for split in ("train", "test"))
    combinations = [set(map(tuple, half[list(CHANNELS)].to_numpy())) for half in (train, test)]
    assert (len(combinations[0]), len(combinations[1])) == (24, 24)
    assert not combinations[0] & combinations[1]
    for half in (train, test):  # no channel follows from the other two
        for channel in CHANNELS:
            others = [name for name in CHANNELS if name != channel]
            assert half.groupby(others)[channel].nunique().between(2, CHANNELS[channel]).all()
    for channel, count in CHANNELS.items():
        assert set(train[channel]) == set(test[channel]) == set(range(count))
    assert [join_channels(split_channels(state)) for state in range(48)] == list(range(48))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_is_redrawn_alone(channel: str) -> None:
    image_id = CHANNEL.index.index[5]
    own, states = CHANNEL.sample(image_id), CHANNEL.index.loc[image_id]
    count = CHANNELS[channel]
    drawn = [CHANNEL.redraw(image_id, (channel,), number) for number in range(count - 1)]
    assert len({image.sum().item() for image in drawn}) == count - 1
    repainted = {state: CHANNEL.repaint(image_id, channel, state).image for state in range(count)}
    assert torch.equal(repainted[int(states[channel])], own.image)
    others = [image for state, image in repainted.items() if state != states[channel]]
    assert all(any(torch.equal(image, other) for other in others) for image in drawn)
    if channel != "form":  # whose outline stays
        rim = torch.nn.functional.max_pool2d(own.masks["part/crest"].float()[None], 5, 1, 2)[0] == 0
        assert all(torch.equal(image[:, rim], own.image[:, rim]) for image in drawn)


def test_the_tail_of_the_channels_is_independent_of_the_class() -> None:
    image_id = CHANNEL.index.index[0]
    crest = CHANNEL.sample(image_id).masks["part/crest"]
    assert "tail" not in CHANNEL.index
    looks = {CHANNEL.redraw(image_id, ("tail",), number).sum().item() for number in range(4)}
    assert len(looks) > 1
    assert torch.equal(CHANNEL.repaint(image_id, "tail", 2**31 - 1).masks["part/crest"], crest)


def test_a_partial_match_of_channels_shares_the_crest_and_nothing_is_unshared() -> None:
    ids = list(CHANNEL.index.index[CHANNEL.index["split"] == "test"])
    pairs = PairChoice(("partial_match",), 20)(CHANNEL, Cosine(), torch.ones(len(ids), 2), ids)
    for query, reference in zip(pairs["query_id"], pairs["reference_id"], strict=True):
        equal = CHANNEL.index.loc[query, list(CHANNELS)] == CHANNEL.index.loc[reference, list(CHANNELS)]
        assert 0 < equal.sum() < 3
        sample = CHANNEL.sample(query)
        regions = CHANNEL.regions(query, reference, sample)
        assert torch.equal(regions["shared"], sample.masks["part/crest"])
        assert "unshared" not in regions


def test_exchanged_places_are_another_class_of_the_same_half() -> None:
    index = RELATION.index
    states = {(row.crest, row.tail): row.split for row in index.itertuples()}
    assert len(states) == 132
    assert all(states[tail, crest] == split for (crest, tail), split in states.items())
    for crest, tail in list(states)[::20]:
        one, twin = (
            index.index[(index["crest"] == a) & (index["tail"] == b)][0] for a, b in ((crest, tail), (tail, crest))
        )
        redrawn = RELATION._scene(one).repaint("places", 1)
        assert (redrawn.crest, redrawn.tail) == (tail, crest)
        assert set(RELATION.regions(one, twin, RELATION.sample(one))) == {"foreground"}
        own = RELATION.sample(one)
        near = own.masks["part/crest"] | own.masks["part/tail"]
        near |= (
            RELATION.repaint(one, "places", 1).masks["part/crest"]
            | RELATION.repaint(one, "places", 1).masks["part/tail"]
        )
        far = torch.nn.functional.max_pool2d(near.float()[None], 7, 1, 3)[0] == 0
        assert torch.equal(RELATION.redraw(one, ("places",), 0)[:, far], own.image[:, far])


def test_exchanged_pairs_have_the_same_parts_in_other_places() -> None:
    ids = list(RELATION.index.index[RELATION.index["split"] == "test"])
    choice = PairChoice(("exchanged",), 20)
    choice.check(RELATION, ids)
    pairs = choice(RELATION, Cosine(), torch.ones(len(ids), 2), ids)
    assert len(pairs) == 20
    sides = [RELATION.index.loc[pairs[f"{side}_id"], ["crest", "tail"]].to_numpy() for side in SIDES]
    assert (sides[0] == sides[1][:, ::-1]).all()
    with pytest.raises(UserError, match="only dataset=planted/relation has them"):
        choice.check(PARTIAL, list(PARTIAL.index.index))


def test_the_parts_of_triplets_that_distinguish_the_positive() -> None:
    ids = list(PARTIAL.index.index[PARTIAL.index["split"] == "test"])
    pairs = PairChoice(("triplet",), 12)(PARTIAL, Cosine(), torch.randn(len(ids), 3), ids)
    batch = load_batch(PARTIAL, pairs)
    states = PARTIAL.index[list(EVIDENCE)]
    for k, row in enumerate(pairs.itertuples()):
        masks = PARTIAL.sample(row.query_id).masks
        unlike = [part for part in EVIDENCE if states.loc[row.query_id, part] != states.loc[row.negative_id, part]]
        assert unlike
        assert torch.equal(batch.masks["distinguishing"][k], sum(masks[f"part/{part}"] for part in unlike) > 0)
