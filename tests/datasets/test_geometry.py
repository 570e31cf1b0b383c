"""Every expected number here was worked out by hand."""

import numpy as np
import PIL.Image
import pytest
import torch

from sfam_bench.datasets.geometry import Augmentation, Geometry, PatchDeletion


def rows_and_cols(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """First and last marked row, first and last marked column."""
    rows, cols = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return int(rows[0]), int(rows[-1]), int(cols[0]), int(cols[-1])


@pytest.fixture
def wide() -> PIL.Image.Image:
    """60 wide, 40 high; resize 20 halves it to 30 x 20, crop 10 then starts at x 10, y 5."""
    return PIL.Image.new("RGB", (60, 40), (255, 0, 0))


HALVE = Geometry(resize=20, crop=10)


def test_image_is_rgb_in_unit_range(wide: PIL.Image.Image) -> None:
    image = HALVE(wide).image
    assert image.shape == (3, 10, 10)
    assert image.dtype == torch.float32
    assert type(image) is torch.Tensor
    assert image[0].min() == 1.0
    assert image[1:].max() == 0.0


def test_box_through_resize_and_crop(wide: PIL.Image.Image) -> None:
    # (24, 14)-(32, 26) halves to (12, 7)-(16, 13) and loses (10, 5): columns 2..5, rows 2..7
    foreground = HALVE(wide, box=(24.0, 14.0, 32.0, 26.0)).masks["foreground"]
    assert foreground.dtype == torch.bool
    assert rows_and_cols(foreground) == (2, 7, 2, 5)
    assert foreground.sum() == 24


def test_box_past_the_crop_and_the_edge_is_clipped(wide: PIL.Image.Image) -> None:
    assert rows_and_cols(HALVE(wide, box=(36.0, -9.0, 99.0, 99.0)).masks["foreground"]) == (0, 9, 8, 9)


def test_box_does_not_reach_into_the_padding_of_a_small_image() -> None:
    small = PIL.Image.new("RGB", (6, 4))  # cropped to 10 x 10: two columns and three rows of padding a side
    foreground = Geometry(resize=None, crop=10)(small, box=(3.0, 1.0, 50.0, 50.0)).masks["foreground"]
    assert rows_and_cols(foreground) == (4, 6, 5, 7)


def test_box_outside_the_crop_is_an_empty_mask(wide: PIL.Image.Image) -> None:
    assert not HALVE(wide, box=(0.0, 0.0, 10.0, 40.0)).masks["foreground"].any()


def test_mask_rides_along_and_wins_over_the_box(wide: PIL.Image.Image) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[14:26, 24:32] = True
    sample = HALVE(wide, box=(0.0, 0.0, 60.0, 40.0), mask=mask)
    assert rows_and_cols(sample.masks["foreground"]) == (2, 7, 2, 5)
    assert sample.masks["foreground"].dtype == torch.bool


def test_a_box_is_a_region_of_its_own_beside_a_mask(wide: PIL.Image.Image) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[16:20, 26:30] = True
    sample = HALVE(wide, box=(24.0, 14.0, 32.0, 26.0), mask=mask)
    assert rows_and_cols(sample.masks["foreground"]) == (3, 4, 3, 4)
    assert rows_and_cols(sample.masks["box"]) == (2, 7, 2, 5)
    alone = HALVE(wide, box=(24.0, 14.0, 32.0, 26.0)).masks
    assert torch.equal(alone["box"], alone["foreground"])
    assert set(HALVE(wide, mask=mask).masks) == {"foreground"}


def test_image_and_box_stay_together(wide: PIL.Image.Image) -> None:
    wide.paste((0, 255, 0), (24, 14, 32, 26))
    sample = Geometry(resize=40, crop=20)(wide, box=(24.0, 14.0, 32.0, 26.0))
    assert torch.equal(sample.image[1] > 0.5, sample.masks["foreground"])


def test_keypoints(wide: PIL.Image.Image) -> None:
    points = np.array([[30, 20, 1], [30, 20, 0], [4, 20, 1], [39, 29, 1], [40, 20, 1]], dtype=np.float32)
    keypoints = HALVE(wide, keypoints=points).keypoints
    assert keypoints is not None
    # (30, 20) -> (5, 5); hidden; left of the crop; (39, 29) -> (9.5, 9.5); x = 10 is just outside
    assert keypoints.tolist() == [[5, 5, 1], [0, 0, 0], [0, 0, 0], [9.5, 9.5, 1], [0, 0, 0]]


def test_no_marks_no_masks(wide: PIL.Image.Image) -> None:
    sample = HALVE(wide)
    assert sample.masks == {}
    assert sample.keypoints is None


def test_no_resize(wide: PIL.Image.Image) -> None:
    # the crop of 10 starts at x 25, y 15
    assert rows_and_cols(Geometry(resize=None, crop=10)(wide, box=(26.0, 18.0, 30.0, 20.0)).masks["foreground"]) == (
        3,
        4,
        1,
        4,
    )


def test_augmentation_is_seeded_by_torch(wide: PIL.Image.Image) -> None:
    wide.putdata([(x % 60 * 4, x // 60 * 6, 0) for x in range(2400)])
    augment = Augmentation(crop=12, scale=[0.2, 1.0])
    torch.manual_seed(3)
    first, second = augment(wide), augment(wide)
    torch.manual_seed(3)
    assert torch.equal(first, augment(wide))
    assert not torch.equal(first, second)
    assert first.shape == (3, 12, 12)
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("image", [torch.full((3, 20, 30), 255, dtype=torch.uint8), torch.ones(3, 20, 30)])
def test_augmentation_takes_tensors(image: torch.Tensor) -> None:
    out = Augmentation(crop=8)(image)
    assert type(out) is torch.Tensor
    assert torch.allclose(out, torch.ones(3, 8, 8))


def test_flip_can_be_off() -> None:
    image = torch.zeros(3, 8, 8)
    image[:, :, :4] = 1
    flipless = Augmentation(crop=8, scale=(1.0, 1.0), flip=False)
    assert all(flipless(image)[0, 4, 0] > 0.5 for _ in range(20))
    assert any(Augmentation(crop=8, scale=(1.0, 1.0))(image)[0, 4, 0] < 0.5 for _ in range(20))


def test_half_of_the_images_are_without_one_random_patch() -> None:
    image = torch.rand(3, 9, 14, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    made = [PatchDeletion()(image) for _ in range(400)]
    mean = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
    patch_of = torch.tensor([[4 * (row * 4 // 9) + col * 4 // 14 for col in range(14)] for row in range(9)])
    without = [torch.where(patch_of == patch, mean, image) for patch in range(16)]
    found = [next((k for k, one in enumerate(without) if torch.equal(one, view)), None) for view in made]
    whole = [view for view, patch in zip(made, found, strict=True) if patch is None]
    assert 160 < len(whole) < 240
    assert all(torch.equal(view, image) for view in whole)
    assert {*found} == {None, *range(16)}
