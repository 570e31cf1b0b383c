"""The fall of the score without a disc at each part, on an additive score, by hand."""

from dataclasses import replace

import pytest
import torch

from sfam_bench.core.baselines import Zeros
from sfam_bench.metrics.part_deletion import Discs, PartDeletion
from sfam_bench.metrics.removal import measure_drops
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.scene import Scene

RED = torch.rand(1, 14, 21, generator=torch.Generator().manual_seed(0))
# x, y, visible: the last part is hidden, and its pixels are not read
PARTS = torch.tensor([[[3.5, 4.9, 1.0], [10.0, 3.0, 1.0], [15.2, 9.7, 1.0], [7.0, 10.0, 0.0]]])
METRIC = PartDeletion(diameter=3, baseline=Zeros())


def of_map(explained, maps, keypoints=PARTS):
    images = torch.zeros(1, 3, 14, 21)
    images[:, 0] = RED
    scene = explained(images, maps).scene
    return Explained(Scene(scene.model, scene.encoded, replace(scene.pairs, keypoints=keypoints)), maps)


def test_each_visible_part_has_a_disc_whose_removal_costs_its_pixels(explained):
    found = of_map(explained, RED)
    discs = Discs(3, Zeros())
    assert discs.regions(found.scene).sum(dim=(2, 3)).tolist() == [[9, 9, 9, 0]]  # squares of distances up to 2
    assert discs.regions(found.scene)[0, 0, 3:6, 2:5].all()
    falls = [float(RED[0, y - 1 : y + 2, x - 1 : x + 2].sum()) / RED.numel() for x, y in ((3, 4), (10, 3), (15, 9))]
    torch.testing.assert_close(
        measure_drops(found.scene, discs), torch.tensor([[*falls, 0.0]], dtype=torch.float64), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("measure", ["pearson", "spearman", "top"])
def test_a_map_of_what_each_pixel_adds_agrees_and_its_negative_does_not(explained, measure):
    metric = replace(METRIC, measure=measure)
    assert metric(of_map(explained, RED)).values.item() == pytest.approx(1, abs=1e-4)
    assert metric(of_map(explained, -RED)).values.item() == pytest.approx(0 if measure == "top" else -1, abs=1e-4)


def test_pairs_without_an_answer_say_why(explained):
    assert METRIC(of_map(explained, torch.ones(1, 14, 21))).reasons["equal_relevance"].all()
    two = PARTS.clone()
    two[0, 0, 2] = 0
    assert METRIC(of_map(explained, RED, two)).reasons["few_parts"].all()
    with pytest.raises(ValueError, match="no keypoints"):
        METRIC(of_map(explained, RED, None))
