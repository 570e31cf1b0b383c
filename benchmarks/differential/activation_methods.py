"""Eigen-CAM, Eigen-Grad-CAM and GAM beside pytorch-grad-cam and a network taken apart by hand."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.gradient_cams import grad_cams
from benchmarks.differential.settings import resnet18, resnets
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.explainers.eigen_cam import EigenCAM, first_component
from sfam_bench.explainers.eigen_grad_cam import EigenGradCAM
from sfam_bench.explainers.gam import GAM


def turned(theirs: Tensor, ours: Tensor) -> Tensor:
    """Theirs with the sign of ours."""
    return theirs * (theirs * ours).sum(dim=(1, 2), keepdim=True).sign()


def components(name: str, explainer: Any, aligned: bool) -> Iterator[Sides]:
    """A component of pytorch-grad-cam, with its sign or with ours."""
    for setting in resnets():
        ours, theirs = setting.ours(explainer), grad_cams(name, setting)
        yield setting.name, ours, turned(theirs, ours) if aligned else theirs


def signs() -> Iterator[Sides]:
    """Its sign on activations of noise, twelve of them."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    noise = torch.rand(12, 256, 6, 4, generator=torch.Generator().manual_seed(0))
    yield "noise", first_component(noise, True, "channel_sum"), torch.as_tensor(get_2d_projection(noise.numpy()))


def gam(**fields: Any) -> Iterator[Sides]:
    """ResNet-18 stage by stage, named by hand, one pair at a time."""
    explainer = GAM(**fields)
    for similarity in (Cosine(), Dot(), NegativeEuclidean()):
        setting = resnet18(None, similarity)
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None).eval()
        trunk: Any = setting.model.trunk
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        found = []
        for image, reference in zip(setting.pairs.query, setting.references, strict=True):
            grids = [stem(trunk[0](image[None]))]
            for stage in stages:
                grids.append(stage(grids[-1]))
            embedding = setting.model.embedder(grids[-1])
            used = grids[1:][-explainer.layers :]
            gradients = torch.autograd.grad(similarity(embedding, reference[None]).sum(), used)
            maps = []
            for grid, gradient in zip(used, gradients, strict=True):
                total = torch.zeros(grid.shape[-2:])
                for k in range(grid.shape[1]):
                    total = total + grid[0, k].detach() * gradient[0, k].clamp(min=0)
                total = total / total.max() if explainer.scale == "max" else total
                size = (used[0].shape[-2], used[0].shape[-1])
                maps.append(nn.functional.interpolate(total[None, None], size, mode="bilinear")[0, 0])
            found.append(sum(maps, torch.zeros(())) / len(maps))
        yield setting.name, setting.ours(explainer), torch.stack(found)


GRAD_CAM = "pytorch_grad_cam"
COMPARISONS = (
    Comparison(
        "eigen_cam",
        "grad-cam EigenCAM, centred, with our sign",
        partial(components, "EigenCAM", EigenCAM(centre=True), True),
        package=GRAD_CAM,
    ),
    Comparison(
        "eigen_cam",
        "grad-cam EigenCAM, with our sign",
        partial(components, "EigenCAM", EigenCAM(), True),
        cause="it subtracts each channel's mean over positions, which the paper does not",
        package=GRAD_CAM,
    ),
    Comparison(
        "eigen_cam",
        "grad-cam EigenCAM, centred, with its sign",
        signs,
        cause="it keeps the arbitrary sign of LAPACK's singular vector: some maps are negated",
        package=GRAD_CAM,
    ),
    Comparison(
        "eigen_grad_cam",
        "grad-cam EigenGradCAM, with our sign",
        partial(components, "EigenGradCAM", EigenGradCAM(), True),
        package=GRAD_CAM,
    ),
    Comparison(
        "eigen_grad_cam",
        "grad-cam EigenGradCAM, with its sign",
        partial(components, "EigenGradCAM", EigenGradCAM(), False),
        cause="it keeps the arbitrary sign of LAPACK's singular vector: some maps are negated",
        package=GRAD_CAM,
    ),
    Comparison("gam", "by definition", gam),
    Comparison("gam", "by definition, four layers unscaled", partial(gam, layers=4, scale="none")),
)
