"""A small convolutional trunk, plain or residual, which learns the planted set in two minutes on two cores."""

import torch
from torch import Tensor, nn

from sfam_bench.core.geometry import Geometry
from sfam_bench.core.protocol import RANDOM
from sfam_bench.core.ranges import Count
from sfam_bench.core.types import Activations, Images

WIDTHS = (32, 64, 64, 96, 128, 128)
STRIDES = (2, 2, 1, 2, 1, 1)  # 8 in all: a 96-pixel image gives a 12 x 12 grid


class Residual(nn.Module):
    """The input plus what layers make of it."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, activations: Activations) -> Activations:
        added: Tensor = activations + self.layers(activations)
        return added


class PlantedNet(nn.Module):
    """Layers of convolution, batch norm and ReLU: images (batch, 3, rows, cols) in [0, 1] to activations at 1/8.

    With `residual`, a layer that changes neither width nor size is added to its input.
    """

    def __init__(
        self, widths: tuple[Count, ...] = WIDTHS, strides: tuple[Count, ...] = STRIDES, residual: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in zip((3, *widths), widths, strides, strict=False):
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            layer = [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            skips = residual and before == width and stride == 1
            layers += [Residual(nn.Sequential(*layer))] if skips else layer
        self.layers = nn.Sequential(*layers)
        self.geometry = Geometry(resize=96, crop=96)  # of the planted set
        self.origin = {"weights": RANDOM, "random": ["trunk"]}
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs

    def forward(self, images: Images) -> Activations:
        standardised = (images - 0.5) / 0.25
        activations: Tensor = self.layers(standardised.contiguous(memory_format=torch.channels_last))
        return activations.contiguous()


def planted_net(
    widths: list[Count] | tuple[Count, ...] = WIDTHS,
    strides: list[Count] | tuple[Count, ...] = STRIDES,
    residual: bool = False,
) -> nn.Module:
    """The untrained trunk; seed torch beforehand for the same weights."""
    return PlantedNet(tuple(widths), tuple(strides), residual)
