"""Infidelity beside captum, single deletion, SaCo beside the authors' loop, F-Fidelity and the joint drop by hand."""

import pytest
import torch

from sfam_bench.core.baselines import Zeros
from sfam_bench.core.errors import UserError
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.f_fidelity import FFidelity
from sfam_bench.metrics.keeping import Keeping
from sfam_bench.metrics.removal import Hiding, Infidelity, Patches, SingleDeletion, measure_drops
from sfam_bench.metrics.saco import SaCo
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny


def scene_of(parts=SETUPS[1]):
    model, batch = tiny(*parts), pairs()
    return Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)


def random_maps(seed=0):
    return 2 * torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed)) - 1


def red_image(red):
    image = torch.zeros(len(red), 3, *red.shape[1:])
    image[:, 0] = red
    return image


# Infidelity


def test_captum_agrees_on_infidelity():
    metrics = pytest.importorskip("captum.metrics")
    scene, maps = scene_of(), random_maps()
    hiding = Hiding(7, 12, 0.25, 0, Zeros())
    hidden, query = hiding.hidden(scene), scene.encoded.query.images
    ours = Infidelity(samples=12, baseline=Zeros(), scale="raw")(Explained(scene, maps)).values
    for row in range(3):
        sets = iter(hidden[row])

        def remove(image, sets=sets):
            mask = next(sets).expand_as(image)
            return mask, image * (1 - mask)

        theirs = metrics.infidelity(
            lambda image, row=row: scene.read(scene.model(image), row),
            remove,
            query[row : row + 1],
            maps[row].expand_as(query[:1]) / 3,
            n_perturb_samples=12,
            max_examples_per_batch=1,
            normalize=True,
        )
        torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-3, atol=1e-9)


def test_a_map_of_what_each_pixel_adds_is_without_infidelity_on_an_additive_score(explained):
    red = torch.rand(1, 14, 21)
    metric = Infidelity(baseline=Zeros())
    for factor in (1.0, 0.3):
        assert metric(explained(red_image(red), factor * red)).values.item() == pytest.approx(0, abs=1e-6)
    unrelated = metric(explained(red_image(red), red - red.mean())).values.item()
    assert 0.5 < unrelated <= 1
    assert metric(explained(red_image(red), torch.zeros(1, 14, 21))).reasons["constant_map"].all()


def test_the_samples_of_infidelity_take_one_pass_for_all_methods():
    scene = scene_of()
    calls = []
    passes = scene.encoded.passes

    class Counting:
        batch = passes.batch

        def __call__(self, series):
            calls.append(1)
            return passes(series)

    object.__setattr__(scene.encoded, "passes", Counting())
    for seed in range(3):
        Infidelity()(Explained(scene, random_maps(seed)))
    assert len(calls) == 1
    with pytest.raises(UserError, match="hide"):
        Infidelity(hide=1)


# Single deletion


def test_single_deletion_orders_patches_as_their_falls_by_hand(explained):
    red = torch.zeros(1, 6, 8)
    red[0, :3, :4], red[0, :3, 4:], red[0, 3:, :4] = 0.9, 0.5, 0.2  # four patches of 3 x 4, the last one 0
    metric = SingleDeletion(grid=2, baseline=Zeros())
    assert metric(explained(red_image(red), red**3)).values.item() == pytest.approx(1)
    assert metric(explained(red_image(red), -red)).values.item() == pytest.approx(-1)
    swapped = red.clone()
    swapped[0, :3, :4], swapped[0, :3, 4:] = 0.5, 0.9
    assert metric(explained(red_image(red), swapped)).values.item() == pytest.approx(0.8)  # 1 - 6 * 2 / 60
    assert metric(explained(red_image(red), torch.ones(1, 6, 8))).reasons["constant_map"].all()
    assert metric(explained(torch.zeros(1, 3, 6, 8), red)).reasons["no_fall"].all()


def test_single_deletion_removes_each_pixel_once():
    scene = scene_of()
    hidden = Patches(4, Zeros()).hidden(scene)
    assert hidden.shape == (3, 16, *SIZE)
    assert (hidden.sum(dim=1) == 1).all()
    drops = measure_drops(scene, Patches(4, Zeros()))
    image = scene.encoded.query.images[1] * (1 - hidden[1, 5])
    expected = scene.full()[1] - scene.read(scene.model(image[None]), 1)
    torch.testing.assert_close(drops[1, 5].float(), expected[0], rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match="grid is 1: choose at least 2"):
        SingleDeletion(grid=1)


# SaCo


def test_saco_is_the_loop_of_its_authors():
    scene, maps = scene_of(), random_maps()
    ours = SaCo(groups=6, baseline=Zeros())(Explained(scene, maps)).values
    full = scene.full()
    for row in range(3):
        order = maps[row].flatten().argsort(descending=True, stable=True)
        places = torch.arange(len(order))
        salience, falls = [], []
        for group in range(6):
            chosen = order[places * 6 // len(order) == group]
            image = scene.encoded.query.images[row].clone()
            image.view(3, -1)[:, chosen] = 0
            salience.append(float(maps[row].flatten()[chosen].double().sum()))
            falls.append((full[row] - scene.read(scene.model(image[None]), row)).item())
        total = weight = 0.0
        for i in range(5):
            for j in range(i + 1, 6):
                part = salience[i] - salience[j] if falls[i] >= falls[j] else salience[j] - salience[i]
                total, weight = total + part, weight + abs(part)
        assert ours[row].item() == pytest.approx(total / weight, abs=1e-5)


def test_saco_of_the_right_and_of_the_reversed_map(explained):
    red = torch.arange(1.0, 41).view(1, 4, 10) / 40
    metric = SaCo(groups=8, baseline=Zeros())
    assert metric(explained(red_image(red), red)).values.item() == pytest.approx(1)
    assert metric(explained(red_image(red), -red)).values.item() == pytest.approx(-1)
    assert metric(explained(red_image(red), torch.zeros_like(red))).values.isnan().all()
    with pytest.raises(UserError, match="groups"):
        SaCo(groups=1)


def test_an_image_of_which_nothing_can_be_removed_has_no_value(explained):
    grey = torch.full((1, 3, 14, 14), 0.3)
    seen = explained(grey, torch.rand(1, 14, 14))
    for metric in (SaCo(), Infidelity(), SingleDeletion()):
        found = metric(seen)
        assert found.reasons["no_fall"].all()
        assert found.values.isnan().all()


# F-Fidelity


def test_f_fidelity_by_hand(explained):
    """All of a quarter is removed: from the best, then from the best half, and so on."""
    red = torch.tensor([[[8.0, 4.0, 2.0, 2.0]]]) / 16
    every = {"levels": 4, "samples": 3, "remove": 1.0, "most": 1.0, "baseline": Zeros(), "min_range": 0.0}
    seen = explained(red_image(red), red)
    plus, minus, gap = (FFidelity(value, **every)(seen).values.item() for value in ("plus", "minus", "gap"))
    assert plus == pytest.approx((8 + 12 + 14 + 16) / 16 / 4)
    assert minus == pytest.approx((2 + 4 + 8 + 16) / 16 / 4)
    assert gap == pytest.approx(plus - minus)


def test_no_more_than_the_bound_is_removed():
    scene = scene_of()
    seen = Explained(scene, random_maps())
    (probe,) = FFidelity("plus", levels=2, samples=20, remove=0.5, most=0.1, baseline=Zeros()).probes
    made = torch.empty(probe.count(0), 3, *SIZE)
    probe.series(seen, 0).write(0, made)
    black = (made == 0).all(dim=1)
    shares = black.double().mean(dim=(1, 2))
    assert shares.mean() == pytest.approx(0.1, abs=0.01)
    best = seen.ranks[0] < SIZE[0] * SIZE[1] / 2
    assert not (black[:20] & ~best).any()
    assert (black[20:] & ~best).any()
    with pytest.raises(UserError, match="removed"):
        FFidelity(most=0)


# Joint average drop


def test_the_joint_drop_masks_both_images_by_their_own_maps():
    scene = scene_of(SETUPS[0])
    model, encoded, batch = scene.model, scene.encoded, scene.pairs
    raw = SFAM()(model, encoded, batch)
    seen = Explained(scene, random_maps().abs(), "sfam", None, SFAM())
    assert seen.other is not None
    metric = Keeping("drop", Zeros(), "positive", "raw", min_range=0.0, degrade="both")
    masked = [side.scene.encoded.query.images * side.maps.clamp_min(0)[:, None] for side in (seen, seen.other)]
    score = model.similarity(*(model(images) for images in masked))
    full = scene.full()
    torch.testing.assert_close(metric(seen).values, 100 * (full - score).clamp_min(0) / full, rtol=1e-4, atol=1e-4)
    alone = Explained(scene, raw.abs(), "file")
    assert metric(alone).reasons["not_drawn"].all()
