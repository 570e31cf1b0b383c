"""BN-Inception up to its last feature map, as in Caffe's model that is fine-tuned in metric learning."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

Traced: TypeAlias = Any  # a tensor, or its proxy while torch.fx traces the model


@dataclass(frozen=True)
class Block:
    """Channels of the branches of a block: 1 x 1, 3 x 3 and twice 3 x 3 behind a reduction, projected pool."""

    one: int  # 0: without this branch; the others halve the grid, and the pool is not projected
    three: tuple[int, int]
    double: tuple[int, int]
    pool: Literal["avg", "max"]
    projected: int


BLOCKS = {  # Ioffe & Szegedy, ICML 2015, figure 5; the pool of 4e is Caffe's
    "3a": Block(64, (64, 64), (64, 96), "avg", 32),
    "3b": Block(64, (64, 96), (64, 96), "avg", 64),
    "3c": Block(0, (128, 160), (64, 96), "max", 0),
    "4a": Block(224, (64, 96), (96, 128), "avg", 128),
    "4b": Block(192, (96, 128), (96, 128), "avg", 128),
    "4c": Block(160, (128, 160), (128, 160), "avg", 128),
    "4d": Block(96, (128, 192), (160, 192), "avg", 128),
    "4e": Block(0, (128, 192), (192, 256), "max", 0),
    "5a": Block(352, (192, 320), (160, 224), "avg", 128),
    "5b": Block(352, (192, 320), (192, 224), "max", 128),
}


class Concatenation(nn.Module):
    """The concatenated branches of a block; a module, so that the model can be cut behind it by name."""

    def forward(self, *branches: Traced) -> Traced:
        return torch.cat(branches, dim=1)


class BNInception(nn.Module):
    """Batch-normalised Inception (Ioffe & Szegedy, ICML 2015), with the parameter names of published files.

    It can be cut behind a block: inception_3a_output to inception_5b_output.
    """

    def __init__(self) -> None:
        super().__init__()
        self._layer("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._layer("conv2_3x3_reduce", 64, 64, 1)
        self._layer("conv2_3x3", 64, 192, 3)
        self.pool1_3x3_s2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool2_3x3_s2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 192
        for name, block in BLOCKS.items():
            channels = self._block(f"inception_{name}", channels, block)

    def _layer(self, name: str, before: int, width: int, side: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(before, width, side, stride=stride, padding=side // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(width))
        self.add_module(f"{name}_relu", nn.ReLU())

    def _block(self, name: str, before: int, block: Block) -> int:
        stride = 1 if block.one else 2
        if block.one:
            self._layer(f"{name}_1x1", before, block.one, 1)
        (reduced, width), (reduced_twice, double) = block.three, block.double
        self._layer(f"{name}_3x3_reduce", before, reduced, 1)
        self._layer(f"{name}_3x3", reduced, width, 3, stride)
        self._layer(f"{name}_double_3x3_reduce", before, reduced_twice, 1)
        self._layer(f"{name}_double_3x3_1", reduced_twice, double, 3)
        self._layer(f"{name}_double_3x3_2", double, double, 3, stride)
        if block.projected:
            self._layer(f"{name}_pool_proj", before, block.projected, 1)
        pool = nn.AvgPool2d if block.pool == "avg" else nn.MaxPool2d
        self.add_module(f"{name}_pool", pool(3, stride=stride, padding=2 - stride, ceil_mode=True))
        self.add_module(f"{name}_output", Concatenation())
        return block.one + width + double + (block.projected or before)

    def _run(self, images: Traced, *names: str) -> Traced:
        for name in names:
            for part in (name, f"{name}_bn", f"{name}_relu"):
                images = self.get_submodule(part)(images)
        return images

    def forward(self, images: Traced) -> Traced:
        activations = self.pool1_3x3_s2(self._run(images, "conv1_7x7_s2"))
        activations = self.pool2_3x3_s2(self._run(activations, "conv2_3x3_reduce", "conv2_3x3"))
        for name, block in BLOCKS.items():
            activations = self._branches(f"inception_{name}", block, activations)
        return activations

    def _branches(self, name: str, block: Block, activations: Traced) -> Traced:
        branches = [self._run(activations, f"{name}_1x1")] if block.one else []
        branches.append(self._run(activations, f"{name}_3x3_reduce", f"{name}_3x3"))
        double = (f"{name}_double_3x3_reduce", f"{name}_double_3x3_1", f"{name}_double_3x3_2")
        branches.append(self._run(activations, *double))
        pooled = self.get_submodule(f"{name}_pool")(activations)
        branches.append(self._run(pooled, f"{name}_pool_proj") if block.projected else pooled)
        return self.get_submodule(f"{name}_output")(*branches)
