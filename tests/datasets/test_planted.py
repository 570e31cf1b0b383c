"""The planted set: what it promises about determinism, classes, masks, repainting and regions."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from scipy.stats import f_oneway

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.render import render
from sfam_bench.datasets.planted.scene import EVIDENCE, PARTS, STATES, PlantedScene, bird, pose

SET = Planted(size=96, train_per_class=2, test_per_class=2)
IDS = list(SET.index.index[::29])


def pair(crest: bool, tail: bool) -> tuple[str, str]:
    """Two test images that share the crest's state or not, and the tail's state or not."""
    test = SET.index[SET.index["split"] == "test"]
    query = test.iloc[0]
    same = ((test["crest"] == query["crest"]) == crest) & ((test["tail"] == query["tail"]) == tail)
    return test.index[0], next(image_id for image_id in test.index[same] if image_id != test.index[0])


def test_satisfies_the_protocol() -> None:
    assert isinstance(SET, Dataset)
    assert SET.index.index.is_unique
    assert SET.index.index.name == "image_id"


def test_image_is_the_sample_s_picture() -> None:
    picture = np.asarray(SET.image(IDS[0])) / 255
    assert np.allclose(picture.transpose(2, 0, 1), SET.sample(IDS[0]).image.numpy())


def test_classes_of_train_and_test_are_disjoint_and_every_state_is_trained() -> None:
    train, test = (SET.index[SET.index["split"] == split] for split in ("train", "test"))
    assert train["label"].nunique() == 96
    assert test["label"].nunique() == 48
    assert sorted(train["label"].unique()) == list(range(96))  # so that a loss can take labels as rows of weights
    combinations = [set(zip(part["crest"], part["tail"], strict=True)) for part in (train, test)]
    assert not combinations[0] & combinations[1]
    for part in EVIDENCE:
        assert set(train[part]) == set(test[part]) == set(range(STATES))
        assert test.groupby(part)["label"].nunique().eq(4).all()
    assert SET.index.groupby(["crest", "tail"])["label"].nunique().eq(1).all()


def test_an_image_depends_on_seed_and_id_alone() -> None:
    first, later = IDS[0], IDS[1]
    fresh, larger = Planted(train_per_class=2, test_per_class=2), Planted(train_per_class=5, test_per_class=3)
    fresh.sample(later)
    assert torch.equal(SET.sample(first).image, fresh.sample(first).image)
    assert torch.equal(SET.sample(first).image, larger.sample(first).image)
    scene = SET._scene(first)
    assert np.array_equal(render(scene, 96)[0], render(scene, 96)[0])  # past the cache
    other = Planted(train_per_class=2, test_per_class=2, seed=1)
    assert not torch.equal(SET.sample(first).image, other.sample(first).image)


def test_a_sample_cannot_spoil_the_cache() -> None:
    sample = SET.sample(IDS[0])
    before = sample.image.clone()
    sample.image.zero_()
    assert torch.equal(SET.sample(IDS[0]).image, before)
    sample.masks["foreground"].zero_()
    assert SET.sample(IDS[0]).masks["foreground"].any()


@pytest.mark.parametrize("image_id", IDS)
def test_masks_are_disjoint_parts_of_the_foreground(image_id: str) -> None:
    sample = SET.sample(image_id)
    assert sample.image.shape == (3, 96, 96)
    assert sample.image.min() >= 0
    assert sample.image.max() <= 1
    parts = torch.stack([sample.masks[f"part/{part}"] for part in PARTS])
    assert parts.sum(dim=0).max() == 1
    assert torch.equal(parts.any(dim=0), sample.masks["foreground"])
    assert 0.1 < sample.masks["foreground"].float().mean() < 0.5
    for part in EVIDENCE:
        assert 0.02 < sample.masks[f"part/{part}"].float().mean() < 0.065


@pytest.mark.parametrize("state", range(STATES))
def test_evidence_lies_inside_the_frame_and_its_parts_well_apart(state: int) -> None:
    for k in range(20):
        scene = PlantedScene((3, k), crest=state, tail=state)
        at = pose(scene)
        points = {layer.part: [] for layer in bird(scene, at)}
        for layer in bird(scene, at):
            points[layer.part].append(at.to_frame(layer.outline_points))
        for part in EVIDENCE:
            outline = np.concatenate(points[part])
            assert outline.min() > -0.03
            assert outline.max() < 1.03
        crest, tail = (np.concatenate(points[part]).mean(axis=0) for part in EVIDENCE)
        assert np.linalg.norm(crest - tail) > 0.35


def test_states_look_different_in_the_same_scene() -> None:
    for part in EVIDENCE:
        looks = [SET.repaint(IDS[0], part, state).image for state in range(STATES)]
        for a in range(STATES):
            for b in range(a):
                assert ((looks[a] - looks[b]).abs().amax(dim=0) > 0.1).float().mean() > 0.005


@pytest.mark.parametrize("part", PARTS)
def test_repaint_changes_only_the_part(part: str) -> None:
    changed_somewhere = False
    for image_id in IDS:
        before = SET.sample(image_id)
        state = (SET.index.loc[image_id, part] + 5) % STATES if part in EVIDENCE else 7
        after = SET.repaint(image_id, part, int(state))
        changed = (before.image != after.image).any(dim=0).numpy()
        allowed = (before.masks[f"part/{part}"] | after.masks[f"part/{part}"]).numpy()
        assert not (changed & ~binary_dilation(allowed, np.ones((5, 5)))).any()  # the rim is anti-aliased
        changed_somewhere |= changed.any()
    assert changed_somewhere


def test_repainting_the_state_that_is_there_changes_nothing() -> None:
    for part in EVIDENCE:
        same = SET.repaint(IDS[0], part, int(SET.index.loc[IDS[0], part]))
        assert torch.equal(same.image, SET.sample(IDS[0]).image)


@pytest.mark.parametrize("part", EVIDENCE)
def test_redrawn_evidence_takes_every_other_state_once_before_any_again(part: str) -> None:
    own, image_id = int(SET.index.loc[IDS[0], part]), IDS[0]
    others = {SET.repaint(image_id, part, state).image.sum().item() for state in range(STATES) if state != own}
    assert {SET.redraw(image_id, (part,), number).sum().item() for number in range(STATES - 1)} == others
    again = SET.redraw(image_id, (part,), STATES - 1)
    assert torch.equal(again, SET.redraw(image_id, (part,), 0))


def test_parts_redrawn_together_are_those_redrawn_alone() -> None:
    both = SET.redraw(IDS[0], ("crest", "body"), 1)
    alone = {part: SET.redraw(IDS[0], (part,), 1) for part in ("crest", "body")}
    masks = SET.sample(IDS[0]).masks
    for part, other in (("crest", "body"), ("body", "crest")):
        inside = masks[f"part/{part}"] & (alone[other] == SET.sample(IDS[0]).image).all(dim=0)
        assert torch.equal(both[:, inside], alone[part][:, inside])


def test_the_pictures_of_the_default_set_do_not_change() -> None:
    pixels = hashlib.sha256()
    for image_id in Planted().index.index[::97]:
        pixels.update(np.asarray(Planted().image(image_id)).tobytes())
    assert pixels.hexdigest()[:16] == "c0a27331a8e09619"


def test_nuisance_is_independent_of_the_states() -> None:
    # by construction: the same scene under other states draws the same pose, light, background and other parts
    image_id = IDS[0]
    scene = SET._scene(image_id)
    other = scene.repaint("crest", (scene.crest + 1) % STATES).repaint("tail", (scene.tail + 1) % STATES)
    assert np.array_equal(pose(scene).matrix, pose(other).matrix)
    for factor in ("light", "background", "clutter", "perch", "body", "wing", "head", "beak", "legs"):
        assert scene.stream(factor).random() == other.stream(factor).random()
    # and over the set: no factor's mean moves with a state by more than chance
    full = Planted()
    for part in EVIDENCE:
        for factor in ("pose", "light", "background", "body"):
            groups = [
                [full._scene(i).stream(factor).random() for i in ids]
                for ids in full.index.groupby(part).groups.values()
            ]
            assert f_oneway(*groups).pvalue > 1e-3


def test_regions_of_a_full_match() -> None:
    query, reference = pair(crest=True, tail=True)
    sample = SET.sample(query)
    regions = SET.regions(query, reference, sample)
    assert set(regions) == {"foreground", "shared"}
    assert torch.equal(regions["shared"], sample.masks["part/crest"] | sample.masks["part/tail"])


@pytest.mark.parametrize("part", EVIDENCE)
def test_regions_of_a_partial_match(part: str) -> None:
    query, reference = pair(crest=part == "crest", tail=part == "tail")
    sample = SET.sample(query)
    regions = SET.regions(query, reference, sample)
    (other,) = set(EVIDENCE) - {part}
    assert torch.equal(regions["shared"], sample.masks[f"part/{part}"])
    assert torch.equal(regions["unshared"], sample.masks[f"part/{other}"])


def test_regions_without_a_match() -> None:
    query, reference = pair(crest=False, tail=False)
    assert set(SET.regions(query, reference, SET.sample(query))) == {"foreground"}


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no image 'train-9999-00'"):
        SET.sample("train-9999-00")
    with pytest.raises(UserError, match="no image 'nobody'"):
        SET.regions(IDS[0], "nobody", SET.sample(IDS[0]))
    with pytest.raises(UserError, match="no part 'horn'"):
        SET.repaint(IDS[0], "horn", 1)
    with pytest.raises(UserError, match="no state 12"):
        SET.repaint(IDS[0], "crest", 12)


@pytest.mark.parametrize("size", [64, 128])
def test_other_sizes_draw_the_same_scene(size: int) -> None:
    small, usual = Planted(size=size).sample(IDS[0]), Planted().sample(IDS[0])
    assert small.image.shape == (3, size, size)
    shares = [float(s.masks["part/tail"].float().mean()) for s in (small, usual)]
    assert shares[0] == pytest.approx(shares[1], rel=0.15)
