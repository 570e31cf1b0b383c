"""What a deleted pixel becomes."""

import pytest
import torch

from sfam_bench.core.baselines import Blur, Colour, MeanColour, PatchShuffle, RiseBlur, Zeros
from sfam_bench.core.errors import UserError

IMAGES = torch.rand(2, 3, 21, 13, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "baseline",
    [
        Zeros(),
        MeanColour(),
        Blur(),
        Blur(sigma=0.5),
        Colour("white"),
        RiseBlur(),
        PatchShuffle(),
        PatchShuffle(grid=30),
    ],
    ids=str,
)
def test_shape_and_range(baseline):
    found = baseline(IMAGES)
    assert found.shape == IMAGES.shape
    assert found.min() >= 0
    assert found.max() <= 1


def test_mean_is_each_images_own_colour():
    found = MeanColour()(IMAGES)
    torch.testing.assert_close(found[1, 2], IMAGES[1, 2].mean().expand(21, 13))


def test_blur_keeps_a_plain_image_and_flattens_a_busy_one():
    plain = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Blur()(plain), plain)
    assert Blur(sigma=0.2)(IMAGES).std() < 0.3 * IMAGES.std()


def test_one_image_does_not_colour_another():
    for baseline in (MeanColour(), Blur(), RiseBlur(), PatchShuffle()):
        torch.testing.assert_close(baseline(IMAGES)[:1], baseline(IMAGES[:1]))


def test_colours_by_hand():
    assert Colour("white")(IMAGES).eq(1).all()
    torch.testing.assert_close(Colour("imagenet_mean")(IMAGES)[1, :, 3, 4], torch.tensor([0.485, 0.456, 0.406]))
    assert {Colour(name).name for name in ("white", "imagenet_mean")} == {"white", "imagenet_mean"}


def test_rises_blur_is_nearly_a_box_with_the_zero_of_its_networks_outside():
    blurred = RiseBlur()(IMAGES)
    torch.testing.assert_close(blurred[0, :, 10, 6], IMAGES[0, :, 5:16, 1:12].mean(dim=(1, 2)), rtol=0, atol=0.02)
    zero = Colour("imagenet_mean")(IMAGES)
    torch.testing.assert_close(RiseBlur()(zero), zero)
    corner = RiseBlur()(torch.zeros(1, 3, 21, 13))[0, :, 0, 0]  # 25 of 121 pixels more than a quarter are outside
    torch.testing.assert_close(corner / zero[0, :, 0, 0], torch.full((3,), 1 - (6 / 11) ** 2), rtol=0.05, atol=0)


@pytest.mark.parametrize("grid", [2, 4, 8])
def test_patches_are_those_of_the_image_each_in_another_place(grid):
    size = 5
    image = torch.rand(1, 3, grid * size, grid * size, generator=torch.Generator().manual_seed(1))

    def patches(images):
        return [block for row in images[0].split(size, dim=1) for block in row.split(size, dim=2)]

    before, after = patches(image), patches(PatchShuffle(grid)(image))
    came = [next(i for i, own in enumerate(before) if torch.equal(own, block)) for block in after]
    assert sorted(came) == list(range(grid**2))
    assert all(place != number for number, place in enumerate(came))


@pytest.mark.parametrize("size", [(21, 13), (3, 50), (17, 16)])
def test_shuffled_pixels_are_the_images_own_whatever_its_size(size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    shuffled = PatchShuffle(8)(image)
    assert {tuple(pixel.tolist()) for pixel in shuffled[0].flatten(1).T} <= {
        tuple(pixel.tolist()) for pixel in image[0].flatten(1).T
    }
    assert not torch.equal(shuffled, image)


def test_the_seed_alone_says_how_patches_move():
    assert torch.equal(PatchShuffle()(IMAGES), PatchShuffle()(IMAGES))
    assert not torch.equal(PatchShuffle()(IMAGES), PatchShuffle(seed=1)(IMAGES))


@pytest.mark.parametrize("wrong", [lambda: PatchShuffle(grid=1), lambda: RiseBlur(size=4), lambda: RiseBlur(sigma=0)])
def test_settings_that_make_no_baseline_are_refused(wrong):
    with pytest.raises(UserError, match="expected"):
        wrong()
