"""Baselines: replacement pixels for deleted ones; images in [0, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import conv2d, pad
from torchvision.transforms.v2 import functional as F

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.core.types import Images

ColourName: TypeAlias = Literal["white", "imagenet_mean"]
COLOURS: Mapping[ColourName, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "imagenet_mean": (0.485, 0.456, 0.406),  # zero after ImageNet standardisation
}


@runtime_checkable
class Baseline(Protocol):
    """Replaces an image by one without its content, of the same shape."""

    @property
    def name(self) -> str:
        """Suffix of the names of metrics that use it."""
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
class Colour(Checked):
    """The same colour for all images."""

    colour: ColourName

    @property
    def name(self) -> str:
        return self.colour

    def __call__(self, images: Images) -> Images:
        return images.new_tensor(COLOURS[self.colour]).view(3, 1, 1).expand_as(images).contiguous()


@dataclass(frozen=True)
class MeanColour:
    """The mean colour of each image."""

    name: str = "mean_colour"

    def __call__(self, images: Images) -> Images:
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()


@dataclass(frozen=True)
class Blur(Checked):
    """A Gaussian blur cut at three sigma; `sigma` is a share of the longer side (RISE's 5 px at 224 is 0.022)."""

    sigma: Positive = 0.05
    name: str = "blur"

    def __call__(self, images: Images) -> Images:
        sigma = self.sigma * max(images.shape[-2:])
        reach = min(int(3 * sigma + 0.5), min(images.shape[-2:]) - 1)  # reflection needs a reach below the image size
        return F.gaussian_blur(images, kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2).clamp(0, 1)


@dataclass(frozen=True)
class RiseBlur(Checked):
    """The blur of RISE's evaluation code: a Gaussian cut to `size` px, nearly a box filter.

    Borders are padded with ImageNet's mean colour, the zero of standardised images.
    """

    size: Count = 11
    sigma: Positive = 5
    name: str = "rise_blur"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"RiseBlur.size is {self.size}: expected an odd number")

    def __call__(self, images: Images) -> Images:
        delta = np.zeros((self.size, self.size))
        delta[self.size // 2, self.size // 2] = 1
        kernel = images.new_tensor(gaussian_filter(delta, self.sigma)).expand(3, 1, -1, -1)
        zero = images.new_tensor(COLOURS["imagenet_mean"]).view(3, 1, 1)
        return (conv2d(images - zero, kernel, padding=self.size // 2, groups=3) + zero).clamp(0, 1)


@dataclass(frozen=True)
class PatchShuffle(Checked):
    """The image's own `grid` x `grid` patches in a fixed random order without fixed points, the same for all images.

    A side that is not a multiple of `grid` is padded by its last pixels, and the result is cropped again.
    """

    grid: Count = 8
    seed: Natural = 0
    name: str = "patch_shuffle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 2:
            raise UserError(f"PatchShuffle.grid is {self.grid}: expected at least 2 patches a side")

    def __call__(self, images: Images) -> Images:
        rows, cols = images.shape[-2:]
        padded = pad(images, (0, -cols % self.grid, 0, -rows % self.grid), mode="replicate")
        patches = padded.unflatten(3, (self.grid, -1)).unflatten(2, (self.grid, -1))  # batch 3 grid height grid width
        patches = patches.transpose(3, 4).flatten(2, 3)
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(self.grid**2)).to(images.device)
        shuffled = torch.empty_like(patches)
        shuffled[:, :, order] = patches[:, :, order.roll(1)]  # a single cycle, so that no patch stays
        shuffled = shuffled.unflatten(2, (self.grid, self.grid)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return shuffled[..., :rows, :cols].contiguous()


BaselineName: TypeAlias = Literal["zeros", "mean_colour", "blur"]  # type of the field `baseline` of explainers
BASELINES: dict[BaselineName, Baseline] = {"zeros": Zeros(), "mean_colour": MeanColour(), "blur": Blur()}
