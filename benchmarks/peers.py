"""Competing code on our similarity target, called as its users call it; nothing here keeps time.

Packages are imported where they are used, so that any of them may be absent.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu
from torch import Tensor, nn
from torch.nn import functional as F

from sfam_bench.core.types import Embeddings, Images, Maps, RawMaps, Scores
from sfam_bench.metrics.perturbation import Direction
from sfam_bench.models.similarity_model import SimilarityModel

# Neither Grad-CAM++ is the paper's here: gradients of a cosine are so small that grad-cam's epsilon of 1e-6 outweighs
# the denominator, and torchcam's division goes to a copy and is lost.
GRAD_CAM = {
    "grad_cam": "GradCAM",
    "hirescam": "HiResCAM",
    "xgrad_cam": "XGradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "ablation_cam": "AblationCAM",
}
TORCHCAM = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMpp", "xgrad_cam": "XGradCAM", "layer_cam": "LayerCAM"}
CAPTUM = {
    "grad_cam": "LayerGradCam",
    "gradient_x_activation": "LayerGradientXActivation",
    "integrated_gradients": "LayerIntegratedGradients",  # 50 passes with backward an image
}


class SimilarityNet(nn.Module):
    """The classifier that peers ask for: images to logits (batch, references), in eval mode; pair i has class i."""

    references: Tensor

    def __init__(self, model: SimilarityModel, references: Embeddings) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("references", references.detach().clone())
        self.eval()

    def forward(self, images: Images) -> Tensor:
        return self.model.similarity.matrix(self.model(images), self.references)


# RISE (Petsiuk et al., BMVC 2018), re-stated


def salient_order(maps: np.ndarray, stable: bool) -> np.ndarray:
    """Pixels by falling saliency, (batch, pixels): RISE's order (ties in any order) or ours (ties in raster order)."""
    flat = maps.reshape(len(maps), -1)
    return np.argsort(-flat, axis=1, kind="stable") if stable else np.flip(np.argsort(flat, axis=1), axis=-1)


def ends(images: Images, substrate: Callable[[Images], Images], direction: Direction) -> tuple[Tensor, Tensor]:
    """Where the walk starts, to be written to, and where it finishes."""
    # contiguous, which theirs takes for granted: an expanded base has one pixel's memory for all of them
    image, base = images.clone(memory_format=torch.contiguous_format), substrate(images).contiguous()
    return (image, base) if direction == "deletion" else (base, image)


def replace(start: Tensor, finish: Tensor, coords: np.ndarray) -> None:
    """Write `coords` (batch, pixels) of `finish` into `start` through numpy views of the host's memory."""
    rows = np.arange(len(coords))[:, None]
    before, after = (side.cpu().numpy().reshape(len(coords), side.shape[1], -1) for side in (start, finish))
    before[rows, :, coords] = after[rows, :, coords]


@dataclass(frozen=True)
class CausalCurve:
    """RISE's curve of one image: `step` pixels at a time, one image a pass, 225 scores at 224 x 224.

    Faithful: batch 1, images on the host and sent to `device` at every step, order and replacement in numpy, an end
    point that every method shares walked anew, one more pass beforehand (theirs looks up the class), a score read back
    at every step. Left out: that lookup's maximum and the two best classes of each step, since there is one output.
    """

    score: Callable[[Images], Scores]
    direction: Direction
    step: int
    substrate: Callable[[Images], Images]
    stable: bool = False
    device: str = "cpu"

    @torch.no_grad()
    def __call__(self, image: Images, saliency: np.ndarray) -> np.ndarray:
        float(self.score(image.to(self.device)))
        start, finish = ends(image, self.substrate, self.direction)
        steps = -(-saliency.size // self.step)
        order = salient_order(saliency[None], self.stable)
        scores = np.empty(steps + 1)
        for i in range(steps + 1):
            scores[i] = float(self.score(start.to(self.device)))
            if i < steps:
                replace(start, finish, order[:, self.step * i : self.step * (i + 1)])
        return scores


@torch.no_grad()
def causal_evaluate(
    net: Callable[[Images], Tensor],
    images: Images,
    maps: np.ndarray,
    direction: Direction,
    step: int,
    substrate: Callable[[Images], Images],
    batch_size: int,
    stable: bool = False,
    device: str = "cpu",
) -> np.ndarray:
    """RISE's curves of many images in batches, (scores, images), of logits whose class i belongs to image i.

    Faithful as CausalCurve; also one pass of all images beforehand, substrates made in batches into one array, and
    pixels replaced in all images at once. Left out: progress bars, the printed area.
    """
    batches = [slice(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    for batch in batches:
        net(images[batch].to(device)).cpu()
    base = torch.zeros_like(images, memory_format=torch.contiguous_format)
    for batch in batches:
        base[batch] = substrate(images[batch])
    start, finish = ends(images, lambda _: base, direction)
    order, steps = salient_order(maps, stable), -(-maps[0].size // step)
    scores = np.empty((steps + 1, len(images)))
    for i in range(steps + 1):
        for batch in batches:
            logits = net(start[batch].to(device)).cpu().numpy()
            scores[i, batch] = logits[range(len(logits)), range(batch.start, batch.stop)]
        replace(start, finish, order[:, step * i : step * (i + 1)])
    return scores


def original_rise(path: str | Path | None = None) -> tuple[ModuleType | None, str]:
    """RISE's evaluation.py out of a checkout of eclique/RISE (the user's: `path` or $RISE), or None and why not."""
    path = path or os.environ.get("RISE")
    source = Path(path or "") / "evaluation.py"
    if not path or not source.is_file():
        return None, f"no evaluation.py in {path}" if path else "no checkout: git clone eclique/RISE and set RISE to it"
    names = ("evaluation", "utils")  # common ones, which somebody else may have taken
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        with patch.object(sys, "path", [str(source.parent), *sys.path]):
            return importlib.import_module("evaluation"), ""
    except ImportError as error:
        return None, f"{source} does not import: {error}"
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)


@torch.no_grad()
def original_curve(rise: ModuleType, curve: CausalCurve, image: Images, saliency: np.ndarray) -> np.ndarray:
    """The same curve by RISE's own code: any device and size, and a second class, which it needs, that never wins."""

    def logits(images: Images) -> Tensor:
        return F.pad(curve.score(images)[:, None], (0, 1), value=-torch.inf)

    mode = "del" if curve.direction == "deletion" else "ins"
    metric = rise.CausalMetric(logits, mode, curve.step, lambda images: curve.substrate(images).contiguous())
    with (
        patch.object(rise, "HW", saliency.size),
        patch.object(Tensor, "cuda", lambda tensor: tensor.to(curve.device)),
    ):
        scores: np.ndarray = metric.single_run(image.contiguous(), saliency)
    return scores


# pytorch_grad_cam


def _grad_cam(name: str, net: SimilarityNet, layer: nn.Module, channels_ablated: float) -> Any:
    import pytorch_grad_cam

    method = getattr(pytorch_grad_cam, GRAD_CAM[name])
    if name != "ablation_cam" or channels_ablated == 1:
        return method(model=net, target_layers=[layer])
    chosen = pytorch_grad_cam.AblationLayer()

    def first(activations: np.ndarray, ratio: float) -> np.ndarray:
        chosen.indices = np.arange(round(channels_ablated * len(activations)))
        return chosen.indices

    # not ratio_channels_to_ablate: it ablates twice its share, the best and the worst, after an SVD to rank them
    chosen.activations_to_be_ablated = first
    return method(model=net, target_layers=[layer], ablation_layer=chosen)


def _targets(count: int) -> list[Callable[[Tensor], Tensor]]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(i) for i in range(count)]


def grad_cam_maps(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    methods: Sequence[str] = tuple(GRAD_CAM),
    layer: nn.Module | None = None,
    channels_ablated: float = 1.0,
) -> dict[str, np.ndarray]:
    """pytorch_grad_cam's maps at the size of the images, rectified and min-maxed, one call a method.

    `layer` is the trunk unless another module is named: Ablation-CAM's passes skip what they replace, so that with the
    trunk they cost an embedder each and with its last block, as in that package's examples, nearly a model each.
    `channels_ablated` is the share of channels, the first ones, that get a pass; the others weigh nothing.
    """
    net, maps = SimilarityNet(model, references), {}
    for name in methods:
        with _grad_cam(name, net, layer or model.trunk, channels_ablated) as cam:
            maps[name] = cam(input_tensor=query, targets=_targets(len(query)))
    return maps


def grad_cam_raw_maps(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    methods: Sequence[str] = tuple(GRAD_CAM),
    layer: nn.Module | None = None,
    channels_ablated: float = 1.0,
) -> dict[str, np.ndarray]:
    """The same before anything is rectified, scaled or resized; weights are computed twice, so not for timing."""
    net, maps, layer = SimilarityNet(model, references), {}, layer or model.trunk
    for name in methods:
        with _grad_cam(name, net, layer, channels_ablated) as cam:
            cam(input_tensor=query, targets=_targets(len(query)))
            seen = cam.activations_and_grads
            gradients = seen.gradients[0].numpy() if seen.gradients else None
            images, activations = query.to(model.device), seen.activations[0].numpy()
            maps[name] = cam.get_cam_image(images, layer, _targets(len(query)), activations, gradients, False)
    return maps


def grad_cam_road(
    model: SimilarityModel, query: Images, references: Embeddings, maps: Maps, percentile: float = 80
) -> np.ndarray:
    """pytorch_grad_cam's ROAD: change of the score once pixels above the percentile are imputed, noise and all."""
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst

    net, images = SimilarityNet(model, references), query.to(model.device)
    change: np.ndarray = ROADMostRelevantFirst(percentile)(images, maps.cpu().numpy(), _targets(len(query)), net)
    return change


WEIGHTS = {(row, col): 2 if 0 in (row, col) else 1 for row in (-1, 0, 1) for col in (-1, 0, 1) if row or col}


def impute_directly(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Values (channels, removed), each the weighted mean of its neighbours, by one sparse LU factorisation."""
    count = int(removed.sum())
    numbers = np.full((removed.shape[0] + 2, removed.shape[1] + 2), -1)
    numbers[1:-1, 1:-1][removed] = np.arange(count)
    inside = np.pad(np.ones(removed.shape), 1)
    padded = np.pad(np.where(removed, 0, image).astype(float), ((0, 0), (1, 1), (1, 1)))
    rows, cols = removed.nonzero()
    known, own = np.zeros((count, len(image))), np.zeros(count)
    places, values = [], []
    for (down, across), weight in WEIGHTS.items():
        at = rows + 1 + down, cols + 1 + across
        known += weight * padded[:, *at].T
        own += weight * inside[at]
        (unknown,) = (numbers[at] >= 0).nonzero()
        places.append((unknown, numbers[at][unknown]))
        values.append(np.full(len(unknown), -float(weight)))
    places.append((np.arange(count), np.arange(count)))
    system = coo_array((np.concatenate([*values, own]), np.concatenate(places, axis=1)), shape=(count, count)).tocsc()
    # symmetric and without pivots, it is faster than spsolve
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    found: np.ndarray = splu(system, **options).solve(known).T
    return found


# torchcam, captum, Quantus


def torchcam_maps(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    methods: Sequence[str] = tuple(TORCHCAM),
    normalized: bool = True,
) -> dict[str, RawMaps]:
    """torchcam's maps at the size of the activations, rectified and, if `normalized`, min-maxed."""
    import torchcam.methods

    net, images, maps = SimilarityNet(model, references), query.to(model.device), {}
    for name in methods:
        with getattr(torchcam.methods, TORCHCAM[name])(net, target_layer=model.trunk) as extractor:
            (maps[name],) = extractor(list(range(len(query))), net(images), normalized=normalized)
    return maps


def torchcam_score_cam(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    channels: float = 1.0,
    batch_size: int = 32,
    normalized: bool = True,
) -> RawMaps:
    """torchcam's Score-CAM over the first `channels` (share) of the channels, one full pass for each, and two more."""
    from torchcam.methods import ScoreCAM

    def first(activations: Tensor) -> Tensor:
        return activations[:, : round(channels * activations.shape[1])]

    net = SimilarityNet(model, references)
    with (
        ScoreCAM(net, target_layer=model.trunk, batch_size=batch_size, reshape_transform=first) as extractor,
        torch.no_grad(),
    ):
        net(query.to(model.device))
        (maps,) = extractor(list(range(len(query))), normalized=normalized)
    return maps


def captum_maps(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    methods: Sequence[str] = ("grad_cam", "gradient_x_activation"),
) -> dict[str, RawMaps]:
    """captum's signed attributions to the activations, summed over channels; it has no scale of its own."""
    import captum.attr

    net, images, maps = SimilarityNet(model, references), query.to(model.device), {}
    for name in methods:
        # or all steps of all images would be one batch
        options = {"internal_batch_size": len(query)} if name == "integrated_gradients" else {}
        method = getattr(captum.attr, CAPTUM[name])(net, model.trunk)
        maps[name] = method.attribute(images, target=list(range(len(query))), **options).sum(dim=1).detach()
    return maps


def quantus_pixel_flipping(
    model: SimilarityModel,
    query: Images,
    references: Embeddings,
    maps: Maps,
    features: int = 224,
    baseline: float | str = 0.0,
) -> np.ndarray:
    """Quantus' pixel flipping, (batch, 3 * pixels / features): each channel of a pixel is a feature of its own.

    So `features` a step are a third as many pixels; the untouched image is not scored; every third score, from the
    third on, is one of a deletion curve with `features` pixels a step. Comparable only where no pixels tie and the
    baseline is a number: "mean" is the grey mean of what is left of the image at each step, "black" its minimum.
    """
    import quantus

    metric = quantus.PixelFlipping(
        features_in_step=features, perturb_baseline=baseline, normalise=False, disable_warnings=True
    )
    scores = metric(
        model=SimilarityNet(model, references),
        x_batch=query.cpu().numpy(),
        y_batch=np.arange(len(query)),
        a_batch=maps[:, None].cpu().numpy(),
        channel_first=True,
        softmax=False,  # the default; of a single logit it would be 1 everywhere
        device=str(model.device),
        batch_size=len(query),
    )
    return np.asarray(scores)
