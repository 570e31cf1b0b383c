"""What a deleted pixel becomes."""

import pytest
import torch

from sfam_bench.baselines import Blur, Mean, Zeros

IMAGES = torch.rand(2, 3, 21, 13, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("baseline", [Zeros(), Mean(), Blur(), Blur(sigma=0.5)])
def test_shape_and_range(baseline):
    found = baseline(IMAGES)
    assert found.shape == IMAGES.shape
    assert found.min() >= 0
    assert found.max() <= 1


def test_mean_is_each_images_own_colour():
    found = Mean()(IMAGES)
    torch.testing.assert_close(found[1, 2], IMAGES[1, 2].mean().expand(21, 13))


def test_blur_keeps_a_plain_image_and_flattens_a_busy_one():
    plain = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Blur()(plain), plain)
    assert Blur(sigma=0.2)(IMAGES).std() < 0.3 * IMAGES.std()


def test_one_image_does_not_colour_another():
    for baseline in (Mean(), Blur()):
        torch.testing.assert_close(baseline(IMAGES)[:1], baseline(IMAGES[:1]))
