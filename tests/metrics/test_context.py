"""Context ratio and laterality by hand."""

import pytest
import torch

from sfam_bench.core.baselines import Zeros
from sfam_bench.metrics.context import ContextRatio, Laterality


def test_the_context_ratio_of_an_additive_score_is_that_of_what_both_parts_add(explained):
    images = torch.zeros(3, 3, 2, 4)
    images[:, 0] = torch.tensor([[4.0, 4.0, 1.0, 1.0], [0.0, 0.0, 2.0, 0.0]]) / 8
    mask = torch.zeros(3, 2, 4, dtype=torch.bool)
    mask[0, :, :2] = True
    mask[1, 0, :] = True  # 10 of 12
    found = ContextRatio(Zeros())(explained(images, torch.rand(3, 2, 4), masks={"foreground": mask}))
    assert found.values[:2].tolist() == pytest.approx([4 / 8, 2 / 10])
    assert found.reasons["empty_mask"].tolist() == [False, False, True]
    assert found.values[2].isnan()


def test_laterality_is_the_fall_of_the_score_of_the_mirrored_query(explained):
    image = torch.rand(2, 3, 4, 6)
    seen = explained(image, torch.rand(2, 4, 6))
    torch.testing.assert_close(Laterality()(seen).values, torch.zeros(2), rtol=0, atol=1e-6)  # pooling sees no order
    weights = torch.arange(6.0)

    def ordered(images):
        return images * weights

    expected = ((image - image.flip(-1)) * weights)[:, 0].mean(dim=(1, 2))
    fresh = explained(image, torch.rand(2, 4, 6))
    fresh.scene.model.trunk.forward = ordered
    full = (image * weights)[:, 0].mean(dim=(1, 2))
    fresh.scene.cache[("fact", "s_full")] = full
    torch.testing.assert_close(Laterality()(fresh).values, expected)


def test_a_symmetric_image_is_its_own_mirror_image(explained):
    half = torch.rand(1, 3, 4, 3)
    seen = explained(torch.cat([half, half.flip(-1)], dim=-1), torch.rand(1, 4, 6))
    assert Laterality("self")(seen).values.item() == pytest.approx(0, abs=1e-6)
