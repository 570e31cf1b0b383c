"""A small network and pictures of several sizes."""

import PIL.Image
import torch

from sfam_bench.core.similarity import Cosine
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

SIZE = 32


def small_model(seed: int = 0, name: str = "small") -> SimilarityModel:
    torch.manual_seed(seed)
    return build(name, planted_net((4, 6), (2, 2)), GAP(), Cosine(), image_size=SIZE)


def picture(seed: int, size: tuple[int, int] = (60, 46)) -> PIL.Image.Image:
    coarse = torch.randint(0, 256, (4, 5, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return PIL.Image.fromarray(coarse.numpy()).resize(size, PIL.Image.Resampling.BICUBIC)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
