"""What recomputing only what a local change reaches could gain at most: python -m benchmarks.early_layers.

A window is put on an image; the convolutions' multiplications at positions whose output does not change are those that
could be left out. Copying, borders and small odd-sized convolutions, which cost time, are not counted.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch
from torch import Tensor, nn

from benchmarks.subjects import network, photos
from sfam_bench.core.hooks import record_outputs


def needed(model: nn.Module, image: Tensor, changed: Tensor) -> float:
    """The share of multiplications at positions that change."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    outputs = []
    for seen in (image, changed):
        with torch.no_grad(), record_outputs(*convolutions) as found:
            model(seen)
            outputs.append(dict(found))
    total = kept = 0.0
    for layer in convolutions:
        before, after = (found[layer] for found in outputs)
        work = before.numel() * layer.weight[0].numel()
        total += work
        kept += work * float((before != after).any(dim=1).float().mean())
    return kept / total


if __name__ == "__main__":
    image = photos(None, 1).query
    for name in ("lite0", "resnet50"):
        model = network(name)
        for layer in model.modules():
            if name == "resnet50" and isinstance(layer, nn.BatchNorm2d):
                nn.init.ones_(layer.weight)  # untrained, the last of each block is zero and lets nothing through
        for side in (16, 32, 50):
            changed, start = image.clone(), (224 - side) // 2
            changed[..., start : start + side, start : start + side] = 0
            print(f"{name}, window of {side} px: at most {1 / needed(model, image, changed):.2f} times as fast")
