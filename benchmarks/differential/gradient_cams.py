"""Activation-based methods beside captum, torchcam and pytorch-grad-cam."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.settings import ScoreOf, Setting, resnets
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.ablation_cam import AblationCAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.grad_cam_pp import GradCAMPlusPlus
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.explainers.xgrad_cam import XGradCAM


def captums(setting: Setting) -> RawMaps:
    """captum's LayerGradCam, which has no ReLU by default."""
    from captum.attr import LayerGradCam

    wrapped = ScoreOf(setting.model, setting.model.similarity, setting.references)
    trunk: Any = setting.model.trunk
    found: Tensor = LayerGradCam(wrapped, trunk[1]).attribute(setting.pairs.query, target=0)
    return found[:, 0].detach()


def torchcams(name: str, setting: Setting) -> RawMaps:
    """A map of torchcam before its scale."""
    import torchcam.methods

    wrapped = ScoreOf(setting.model, setting.model.similarity, setting.references)
    trunk: Any = setting.model.trunk
    with getattr(torchcam.methods, name)(wrapped, target_layer=trunk[1]) as extractor:
        (found,) = extractor([0] * len(setting.pairs), wrapped(setting.pairs.query), normalized=False)
    return found


def grad_cams(name: str, setting: Setting) -> RawMaps:
    """A map of pytorch-grad-cam before its ReLU and its scale."""
    trunk: Any = setting.model.trunk
    return raw_grad_cam(name, setting.model, trunk[1], setting.pairs.query, setting)


def raw_grad_cam(name: str, network: nn.Module, layer: nn.Module, inputs: Tensor, setting: Setting) -> RawMaps:
    """The same of any `network` that ends in embeddings."""

    def target(reference: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda e: setting.model.similarity(e[None], reference[None])[0]

    return targeted(name, network, layer, inputs, [target(reference) for reference in setting.references])


def targeted(
    name: str, network: nn.Module, layer: nn.Module, inputs: Tensor, targets: list[Callable[[Tensor], Tensor]]
) -> RawMaps:
    """The same of one target for each output."""
    import pytorch_grad_cam

    method: Any = getattr(pytorch_grad_cam, name)

    class Keeping(method):
        def get_cam_image(self, *args: Any) -> Any:
            self.raw = super().get_cam_image(*args)
            return self.raw

    with Keeping(network, [layer]) as extractor:
        extractor.batch_size = 512
        extractor(inputs, targets)
    return torch.as_tensor(extractor.raw)


def beside(theirs: Callable[[str, Setting], RawMaps], name: str, explainer: Any) -> Callable[[], Iterator[Sides]]:
    """Compare in every setting."""

    def run() -> Iterator[Sides]:
        for setting in resnets():
            yield setting.name, setting.ours(explainer), theirs(name, setting)

    return run


def ablation() -> Iterator[Sides]:
    """Theirs divides by the score with its sign; at layer3, where each channel takes a long pass, of one similarity."""
    for setting in map(Setting.one, islice(resnets(), 4)):
        network = nn.Sequential(nn.Identity(), setting.model.embedder)
        query = setting.encoded.query
        sign = setting.model.similarity(query.embeddings, setting.references).sign()
        theirs = raw_grad_cam("AblationCAM", network, network[0], query.activations, setting)
        yield setting.name, setting.ours(AblationCAM(relu=False)), theirs * sign


def score_grad_cam() -> Iterator[Sides]:
    """Masks at the cut."""
    for setting in map(Setting.one, resnets()):
        network = nn.Sequential(nn.Identity(), setting.model.embedder)
        theirs = raw_grad_cam("ScoreCAM", network, network[0], setting.encoded.query.activations, setting)
        yield setting.name, setting.ours(ScoreCAM()), theirs


def score_torchcam() -> Iterator[Sides]:
    """Masks at the cut."""
    import torchcam.methods

    for setting in map(Setting.one, resnets()):
        network = nn.Sequential(nn.Identity(), setting.model.embedder)
        wrapped = ScoreOf(network, setting.model.similarity, setting.references)
        with torchcam.methods.ScoreCAM(wrapped, target_layer=network[0], batch_size=512) as extractor:
            wrapped(setting.encoded.query.activations)
            (theirs,) = extractor(0, normalized=False)
        yield setting.name, setting.ours(ScoreCAM()), theirs


def plus_plus(name: str, theirs: Callable[[str, Setting], RawMaps], epsilon: float | None) -> Any:
    """Grad-CAM++ with or without an epsilon."""
    return beside(theirs, name, GradCAMPlusPlus(epsilon=epsilon, relu=False))


COMPARISONS = (
    Comparison(
        "grad_cam",
        "captum LayerGradCam",
        beside(lambda _, s: captums(s), "", GradCAM(relu=False)),
        package="captum",
    ),
    Comparison("grad_cam", "torchcam GradCAM", beside(torchcams, "GradCAM", GradCAM()), package="torchcam"),
    Comparison(
        "grad_cam",
        "grad-cam GradCAM",
        beside(grad_cams, "GradCAM", GradCAM(relu=False)),
        package="pytorch_grad_cam",
    ),
    Comparison("hirescam", "grad-cam HiResCAM", beside(grad_cams, "HiResCAM", HiResCAM()), package="pytorch_grad_cam"),
    Comparison(
        "xgrad_cam",
        "grad-cam XGradCAM",
        beside(grad_cams, "XGradCAM", XGradCAM(relu=False)),
        package="pytorch_grad_cam",
    ),
    Comparison("xgrad_cam", "torchcam XGradCAM", beside(torchcams, "XGradCAM", XGradCAM()), package="torchcam"),
    Comparison(
        "layer_cam",
        "grad-cam LayerCAM",
        beside(grad_cams, "LayerCAM", LayerCAM(relu=False)),
        package="pytorch_grad_cam",
    ),
    Comparison("layer_cam", "torchcam LayerCAM", beside(torchcams, "LayerCAM", LayerCAM()), package="torchcam"),
    Comparison(
        "grad_cam_pp",
        "grad-cam GradCAMPlusPlus, our epsilon set to its 1e-6",
        plus_plus("GradCAMPlusPlus", grad_cams, 1e-6),
        package="pytorch_grad_cam",
    ),
    Comparison(
        "grad_cam_pp",
        "grad-cam GradCAMPlusPlus",
        plus_plus("GradCAMPlusPlus", grad_cams, None),
        cause="its epsilon of 1e-6 is far larger than the squared gradients of these scores, and dominates the map; "
        "our epsilon is relative",
        package="pytorch_grad_cam",
    ),
    Comparison(
        "grad_cam_pp",
        "torchcam GradCAMpp",
        beside(torchcams, "GradCAMpp", GradCAMPlusPlus()),
        cause="its division by the denominator writes to a copy and is lost, so that alpha is G squared",
        package="torchcam",
    ),
    Comparison(
        "ablation_cam",
        "grad-cam AblationCAM at the cut",
        ablation,
        tolerance=2e-4,  # theirs subtracts scores that nearly agree, in float32
        package="pytorch_grad_cam",
    ),
    Comparison("score_cam", "grad-cam ScoreCAM at the cut", score_grad_cam, package="pytorch_grad_cam"),
    Comparison("score_cam", "torchcam ScoreCAM at the cut", score_torchcam, package="torchcam"),
)
