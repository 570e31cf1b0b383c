"""Models of transformers, open_clip, facenet-pytorch, torchreid and ArcFace: their own embedding, and their pixels."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation import libraries
from sfam_bench.evaluation.named import explainers_of
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.shared.forms import contributions
from sfam_bench.models.pixels import pixels_of
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.models.sources import open_clip_model, transformers_model
from sfam_bench.models.wrapping import wrap


def made(name: str) -> nn.Module:
    """A network of a library, or a reason to skip."""
    torch.manual_seed(0)
    if name == "iResNet":
        return IResNet().eval()
    try:
        return libraries.make(name)
    except UserError as error:
        pytest.skip(str(error))


def imported(package: str) -> ModuleType:
    return pytest.importorskip(package, reason=f"{package} is not installed")


class Block(nn.Module):
    """A block of an improved residual network for faces (ArcFace: Deng et al., CVPR 2019)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor = self.layers(images) + self.shortcut(images)
        return total


class IResNet(nn.Module):
    """Faces of 112 x 112 px to a flattened grid of 7 x 7, a linear layer and batch norm, as in insightface."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16), Block(16, 16), Block(16, 24))
        self.bn2 = nn.BatchNorm2d(24)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(24 * 49, 32)
        self.features = nn.BatchNorm1d(32)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.bn2(self.blocks(self.stem(images)))
        found: Tensor = self.features(self.fc(self.dropout(grid.flatten(1))))
        return found


SLOW = ("facenet_pytorch", "torchreid")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith(SLOW) else name
    for name in ("iResNet", *libraries.NETWORKS)
]


def wrapped(name: str) -> tuple[SimilarityModel, nn.Module]:
    module = made(name)
    return wrap(module, image_size=libraries.SIZES.get(name.partition("/")[0]), name=name), module


@pytest.mark.parametrize("name", NAMES)
def test_the_embedding_is_that_of_the_library(name: str) -> None:
    model, module = wrapped(name)
    images = torch.rand(2, 3, *model.geometry.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = unit(libraries.read(module(model.trunk[0](images))))
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "mean", "geometry"),
    [
        ("transformers/vit", 0.5, Geometry((64, 64), 64, "bicubic")),
        ("transformers/dinov2", 0.485, Geometry((56, 56), 56, "bicubic")),
        ("transformers/clip", 0.48145466, Geometry((64, 64), 64, "bicubic")),
        ("iResNet", 0.5, Geometry((112, 112), 112)),
        pytest.param("torchreid/osnet_x0_25", 0.485, Geometry((256, 128), (256, 128)), marks=pytest.mark.slow),
        pytest.param("facenet_pytorch/inception_resnet_v1", 0.5, Geometry((160, 160), 160), marks=pytest.mark.slow),
    ],
)
def test_the_pixels_are_those_of_the_library(name: str, mean: float, geometry: Geometry) -> None:
    found = pixels_of(made(name))
    assert found is not None
    assert found.geometry == geometry
    assert found.mean.flatten()[0] == pytest.approx(mean)


def test_the_pixels_of_a_module_around_a_network_of_timm_are_that_networks(caplog: pytest.LogCaptureFixture) -> None:
    inner = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    found = pixels_of(nn.Sequential(inner, nn.Linear(1280, 8)))
    assert found is not None
    assert found.geometry == Geometry(256, 224, "bicubic")
    assert found.mean.flatten()[0] == 0.5
    assert "Sequential: pixels are standardised, and pictures resized, as for its part '0'; give" in caplog.text
    assert pixels_of(nn.ModuleList([inner, timm.create_model("resnet18")])) is None


@pytest.mark.parametrize(
    ("given", "geometry"),
    [
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
            Geometry(256, 224, "bicubic"),
        ),
        ({"size": {"height": 224, "width": 224}, "resample": 2}, Geometry((224, 224), 224, "bilinear")),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}, Geometry(256, 224, "bicubic")),
        ({"size": 128, "resample": 1}, Geometry((128, 128), 128, "lanczos")),
    ],
)
def test_the_file_of_a_processor_decides(given: dict[str, Any], geometry: Geometry, tmp_path: Path) -> None:
    module = made("transformers/vit")
    module.config._name_or_path = str(tmp_path)
    content = {**given, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    found = pixels_of(module)
    assert found is not None
    assert found.geometry == geometry
    assert found.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    module = made("transformers/vit")
    module.save_pretrained(tmp_path / "whole")
    model = transformers_model(str(tmp_path / "whole"), Cosine())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = unit(module((images - 0.5) / 0.5).pooler_output)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    assert model.origin["random"] == []
    assert model.origin["weights"].startswith("file model.safetensors (sha256 ")
    module.config.save_pretrained(tmp_path / "config")
    assert transformers_model(str(tmp_path / "config"), Cosine()).origin == {"weights": "random", "random": ["trunk"]}
    headless = type(module)(module.config, add_pooling_layer=False)
    headless.save_pretrained(tmp_path / "headless")
    assert transformers_model(str(tmp_path / "headless"), Cosine()).origin["random"] == ["pooler"]
    with pytest.raises(UserError, match=r"has no config\.json"):
        transformers_model(str(tmp_path), Cosine())


def test_the_images_tower_of_clip_in_a_folder(tmp_path: Path) -> None:
    library = imported("transformers")
    text = {**libraries.BLOCKS, "vocab_size": 20, "max_position_embeddings": 8}
    seen = {**libraries.VIT, "projection_dim": 24}
    both = library.CLIPModel(library.CLIPConfig(text_config=text, vision_config=seen, projection_dim=24))
    both.eval().save_pretrained(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    model = transformers_model(str(tmp_path), Cosine())
    with torch.no_grad():
        found = both.get_image_features(model.trunk[0](images))
        expected = unit(found if isinstance(found, Tensor) else found.pooler_output)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    assert model.origin["random"] == []


@pytest.mark.slow
def test_an_architecture_of_open_clip(tmp_path: Path) -> None:
    library = imported("open_clip")
    whole = library.create_model("ViT-S-32", load_weights=False) if "ViT-S-32" in library.list_models() else None
    if whole is None:
        pytest.skip("this version of open_clip has no ViT-S-32")
    torch.save(whole.state_dict(), tmp_path / "a.pt")
    model = open_clip_model("ViT-S-32", Cosine(), weights=str(tmp_path / "a.pt"))
    images = torch.rand(2, 3, *model.geometry.size)
    with torch.no_grad():
        expected = unit(whole.eval().encode_image(model.trunk[0](images)))
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    assert model.origin["random"] == []
    assert open_clip_model("ViT-S-32", Cosine()).origin["random"] == ["trunk"]


def test_what_is_missing_is_said_in_one_line() -> None:
    imported("open_clip")
    with pytest.raises(UserError, match="open_clip has no architecture 'ViT-Q'"):
        open_clip_model("ViT-Q", Cosine())
    with pytest.raises(UserError, match=r"there are no weights at nowhere\.pt"):
        open_clip_model("ViT-B-32", Cosine(), weights="nowhere.pt")


EXACT = {
    "iResNet": True,
    "transformers/swin": True,
    "transformers/convnext": False,
    "transformers/dinov2": False,
    "transformers/siglip": False,
}


@pytest.mark.parametrize("name", EXACT)
def test_methods_explain_them_and_the_residual_is_what_it_should_be(name: str) -> None:
    """Shares of positions sum to the cosine minus the bias, where the embedding is affine in the activations."""
    model, _ = wrapped(name)
    model.double()
    draw = torch.Generator().manual_seed(2)
    query, reference = (torch.rand(2, 3, *model.geometry.size, generator=draw, dtype=torch.float64) for _ in (0, 1))
    encoded = encode_pairs(model, Similarity(), query, reference)
    pairs = PairBatch(("a", "b"), ("c", "d"), query, reference)
    grid = encoded.query.activations.shape[-2:]
    methods = explainers_of(["sfam", "similarity_decomposition", "grad_cam"]) | {"rise": RISE(masks=16)}
    for method, explainer in methods.items():
        maps = explainer(model, encoded, pairs)
        assert maps.isfinite().all(), method
        assert maps.flatten(1).std(dim=1).gt(0).all(), method
        assert method == "rise" or maps.shape[-2:] == grid
    directions = Cosine().direction(encoded.query.embeddings, encoded.terms[0].side.embeddings)
    shares = contributions(model, encoded.query, directions).sum(dim=(1, 2, 3))
    with torch.no_grad():
        bias = model.embedder.project(model.embedder.pool(torch.zeros_like(encoded.query.activations)))
        length = model.embedder.project(model.embedder.pool(encoded.query.activations)).norm(dim=1)
    scores = (encoded.query.embeddings * encoded.terms[0].side.embeddings).sum(dim=1)
    rest = scores - (bias * directions).sum(dim=1) / length - shares
    assert (rest.abs().max() < 1e-9) == EXACT[name], rest
