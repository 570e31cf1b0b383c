"""The pixels that a deleted pixel becomes; images in [0, 1]."""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torchvision.transforms.v2 import functional as F

from sfam_bench.types import Images


@runtime_checkable
class Baseline(Protocol):
    """An image without its content, of the same shape."""

    @property
    def name(self) -> str:
        """Suffix of the metrics that use it."""
        ...

    def __call__(self, images: Images) -> Images:
        """Replace every pixel."""
        ...


@dataclass(frozen=True)
class Zeros:
    """Black."""

    name: str = "zeros"

    def __call__(self, images: Images) -> Images:
        return torch.zeros_like(images)


@dataclass(frozen=True)
class Mean:
    """The mean colour of each image."""

    name: str = "mean"

    def __call__(self, images: Images) -> Images:
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur; `sigma` as a share of the longer side (RISE's 5 px at 224 is 0.022), cut at three sigma."""

    sigma: float = 0.05
    name: str = "blur"

    def __call__(self, images: Images) -> Images:
        sigma = self.sigma * max(images.shape[-2:])
        reach = min(int(3 * sigma + 0.5), min(images.shape[-2:]) - 1)  # reflection needs less than one image
        return F.gaussian_blur(images, kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2).clamp(0, 1)


BaselineName: TypeAlias = Literal["zeros", "mean", "blur"]  # a field of explainers that need an image without content
BASELINES: dict[BaselineName, Baseline] = {"zeros": Zeros(), "mean": Mean(), "blur": Blur()}
