"""The networks of few-shot learning: Conv4 and ResNet-12, for images of 84 px."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfam_bench.core.geometry import Geometry
from sfam_bench.core.ranges import Count
from sfam_bench.core.types import Activations
from sfam_bench.models.backbones import mark_weights
from sfam_bench.models.cuts import Cut
from sfam_bench.models.networks import Standardise


class Block(nn.Sequential):
    """Convolution 3 x 3, batch norm, ReLU and max pooling by 2."""

    def __init__(self, before: int, width: int) -> None:
        layers = (nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Three convolutions 3 x 3 with batch norm and a projected shortcut, leaky ReLU (0.1), max pooling by 2."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (before, width, width):
            convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
        self.path = nn.Sequential(*layers[:-1])  # the last activation follows the sum
        self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.end(self.path(inputs) + self.shortcut(inputs))
        return outputs


class PositionsAsChannels(nn.Module):
    """Each position of each channel as a channel of its own, (batch, channels * rows * cols, 1, 1)."""

    def forward(self, activations: Activations) -> Float[Tensor, "batch positions 1 1"]:
        return activations.flatten(1)[:, :, None, None]


def conv4(width: Count = 64, flatten: bool = True) -> Cut:
    """Four blocks of 3 x 3 convolutions at 1/16: images of 84 px give a 5 x 5 grid (Vinyals et al., NeurIPS 2016).

    flatten: the embedding holds all positions (64 x 25 = 1600 dimensions), as in Snell et al. (NeurIPS 2017) and Chen
    et al. (ICLR 2019); else the positions are pooled. Flattened, all images must have one size.

    The weights are random: He's normal initialisation by fan-out, as in Chen et al.'s code.
    """
    blocks = [Block(before, width) for before in (3, width, width, width)]
    pixels = Standardise(geometry=Geometry((96, 96), 84))  # as Chen et al.
    trunk = _initialised(nn.Sequential(pixels, *blocks))
    return mark_weights(Cut(trunk, PositionsAsChannels() if flatten else None), None)


def resnet12(widths: Sequence[Count] = (64, 128, 256, 512)) -> Cut:
    """Four residual blocks at 1/16, whose positions are pooled; the widths of Meta-Baseline (Chen et al., ICCV 2021).

    The weights are random: He's normal initialisation by fan-out.
    """
    blocks = [ResidualBlock(before, width) for before, width in zip((3, *widths), widths, strict=False)]
    pixels = Standardise(geometry=Geometry(92, 84))  # as Meta-Baseline
    return mark_weights(Cut(_initialised(nn.Sequential(pixels, *blocks))), None)


def _initialised(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network.to(memory_format=torch.channels_last)  # faster on CPUs
