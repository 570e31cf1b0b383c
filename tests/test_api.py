"""explain(): one pair, a few lines."""

import subprocess
import sys

import PIL.Image
import pytest
import torch

import sfam_bench
from sfam_bench.errors import UserError
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.similarity import Cosine


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), Cosine(), image_size=32)


def picture(seed, size=(50, 40)):
    return PIL.Image.effect_noise(size, 40 + seed)


def test_maps_of_both_images_in_three_lines(model, tmp_path):
    picture(0).save(tmp_path / "query.png")
    found = sfam_bench.explain(model, tmp_path / "query.png", picture(1))
    assert found.query_maps.keys() == found.reference_maps.keys() == {"sfam", "similarity_decomposition"}
    assert found.query_maps["sfam"].shape == found.query.shape[1:] == (32, 32)
    assert 0.5 < found.query_maps["sfam"].abs().max() <= 1
    assert -1 <= found.score <= 1
    assert not found.flags


def test_the_reference_map_is_the_query_map_of_the_swapped_pair(model):
    images = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    there, back = sfam_bench.explain(model, *images), sfam_bench.explain(model, *images.flip(0))
    torch.testing.assert_close(there.reference_maps["sfam"], back.query_maps["sfam"])
    assert there.score == pytest.approx(back.score)


def test_an_image_with_itself_gives_no_pretty_map(model):
    image = torch.rand(3, 32, 32)
    found = sfam_bench.explain(model, image, image, {"lafam": LaFAM()})
    assert found.flags == {"lafam": "self_pair"}
    assert found.query_maps["lafam"].abs().max() == 0


@pytest.mark.parametrize("image", [torch.rand(32, 32), torch.rand(1, 32, 32), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_what_is_no_image_is_refused(model, image):
    with pytest.raises(UserError, match="an image tensor must be floats of shape"):
        sfam_bench.explain(model, image, torch.rand(3, 32, 32))


def test_a_missing_file_is_named(model):
    with pytest.raises(UserError, match=r"nowhere.jpg is missing"):
        sfam_bench.explain(model, "nowhere.jpg", torch.rand(3, 32, 32))


def test_reports_do_not_pay_for_torch():
    code = "import sys, sfam_bench.report, sfam_bench.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
