"""Sizes of images: they come with the model, may be rectangles, and a data set of another size is refused."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from torch import nn

from sfam_bench.api import explain
from sfam_bench.core.geometry import STANDARD, Geometry
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.networks import network
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import find_geometry
from tests.scripts import Run

FEW = ["dataset.train_per_class=1", "dataset.test_per_class=2"]


@pytest.mark.parametrize(
    ("source", "name", "geometry"),
    [
        ("timm", "resnet50.tv_in1k", Geometry(256, 224, "bilinear")),
        ("timm", "vit_small_patch16_224.dino", Geometry(248, 224, "bicubic")),
        ("torchvision", "resnet18", STANDARD),
    ],
)
def test_a_network_by_name_has_the_geometry_of_its_source(source: str, name: str, geometry: Geometry) -> None:
    _, pixels = network(source, name)
    assert pixels.geometry == geometry


def test_the_geometry_of_torchvision_is_that_of_its_transform() -> None:
    _, pixels = network("torchvision", "resnet18")
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    whole = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    ours = pixels(pixels.geometry(photo).image[None])[0]
    torch.testing.assert_close(ours, whole(photo), atol=0.02, rtol=0)  # theirs rounds to 8 bits after the resize


def test_sizes_change_in_proportion_and_rectangles_are_not_cropped() -> None:
    assert STANDARD.at(None) is STANDARD.at(224) is STANDARD
    assert STANDARD.at(112) == Geometry(128, 112)
    assert Geometry(None, 20).at(10) == Geometry(None, 10)
    assert Geometry((160, 160), 160).at(80) == Geometry((80, 80), 80)
    rectangle = STANDARD.at((256, 128))
    assert rectangle == Geometry((256, 128), (256, 128))
    photo = PIL.Image.new("RGB", (60, 90), "white")
    box = rectangle(photo, box=(30.0, 0.0, 60.0, 45.0)).masks["box"]
    assert box.shape == (256, 128)
    assert box[:128, 64:].all()
    assert box.sum() == 128 * 64


@pytest.mark.slow
def test_lite0_is_evaluated_as_its_weights_were() -> None:
    trunk, _ = lite0(pretrained=False)
    assert find_geometry(trunk) == Geometry(256, 224, "bicubic")


@pytest.mark.parametrize("size", [32, (48, 24)])
def test_maps_have_the_size_of_the_model(size: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build("small", nn.Conv2d(3, 4, 4, stride=4), GAP(), Cosine(), image_size=size)
    photos = [PIL.Image.fromarray(np.random.default_rng(k).integers(0, 255, (60, 40, 3), np.uint8)) for k in (0, 1)]
    found = explain(model, *photos)
    assert found.query_maps["sfam"].shape == found.query.shape[1:] == model.geometry.size


@pytest.mark.slow
def test_a_data_set_of_another_size_is_refused(run_script: Run) -> None:
    code, _, err = run_script("embed", "dataset.size=48", *FEW)
    assert code == 2
    assert "planted gives images of 48 x 48 px, and planted_net takes 96 x 96 px: set model.image_size=48" in err
    assert run_script("embed", "dataset.size=48", "model.image_size=48", *FEW)[0] == 0


@pytest.fixture
def people(tmp_path: Path) -> list[str]:
    """Upright pictures of four classes, in the layout of Stanford Online Products."""
    draw, folder = np.random.default_rng(0), tmp_path / "people_final"
    folder.mkdir()
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(8):
        label, side = number // 2 + 1, "train" if number < 4 else "test"
        PIL.Image.fromarray(draw.integers(0, 255, (80, 40, 3), np.uint8)).save(folder / f"{number}.png")
        lines[side].append(f"{number + 1} {label} 1 people_final/{number}.png")
    for side, rows in lines.items():
        (tmp_path / f"Ebay_{side}.txt").write_text("\n".join(["image_id class_id super_class_id path", *rows]) + "\n")
    return ["dataset=sop", f"dataset.root={tmp_path}", "dataset.name=people", "recall_at=[1]"]


@pytest.mark.slow
def test_rectangles_through_a_whole_evaluation(run_script: Run, people: list[str], tmp_path: Path) -> None:
    few = ["pairs.kinds=[random_positive]", "pairs.count=2", "steps.intervals=2", "explainer=[sfam,lafam]"]
    call = ["evaluate", *people, "model.image_size=[64,32]", *few, "metric=[deletion]", f"run_dir={tmp_path / 'run'}"]
    code, _, err = run_script(*call, "maps.save=true", "min_range=-9.0")
    assert code == 0, err
    (picture, *_) = (tmp_path / "run" / "images").glob("*.png")
    with PIL.Image.open(picture) as image:
        assert image.size == (32, 64)


@pytest.mark.slow
def test_a_geometry_by_hand_that_does_not_fit_is_refused(run_script: Run, people: list[str]) -> None:
    mine = "dataset.geometry={_target_: sfam_bench.datasets.geometry.Geometry, resize: 40, crop: 32}"
    code, _, err = run_script("embed", *people, mine)
    assert code == 2
    assert "people gives images of 32 x 32 px, and planted_net takes 96 x 96 px: leave dataset.geometry null, or" in err
    code, out, err = run_script("embed", *people, mine, "model.image_size=32")
    assert code == 0, err
    assert "images: resized to 40 (bilinear), cropped to 32 x 32 px, as dataset.geometry sets, not" in out + err
    assert json.loads(out[out.index("{") :])["model"] == "planted_net"
