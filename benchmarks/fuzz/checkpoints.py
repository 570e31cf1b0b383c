"""Broken files of weights: other layouts, missing and foreign entries, damaged containers, code."""

from functools import cache
from pathlib import Path
from random import Random

import timm
import torch
import torchvision
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmarks.fuzz import checkpoint_files, checkpoint_heads, checkpoint_layouts
from benchmarks.fuzz.attempt import Attempt
from benchmarks.fuzz.checkpoint_layouts import Networks, Way
from sfam_bench.app.settings import build as configured
from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.build import build
from sfam_bench.models.networks import Standardise
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP

LOAD = "sfam_bench.models.adapters.load.checkpoint"
COSINE = {"_target_": "sfam_bench.core.similarity.Cosine"}
WAYS: tuple[Way, ...] = (
    *checkpoint_heads.WAYS,
    *checkpoint_layouts.WAYS,
    *checkpoint_files.WAYS,
)


def randomised(module: nn.Module) -> nn.Module:
    """Random weights whose activations neither vanish nor explode, and statistics that are not the initial ones."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.uniform_(part.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return module.eval()


@cache
def networks() -> Networks:
    """The networks whose files are broken, and what they make of two images."""
    torch.manual_seed(0)
    body = randomised(torchvision.models.mobilenet_v2())
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    own = build("planted_net", planted_net(), GAP(), Cosine(), nn.Linear(128, 16), image_size=64)
    with torch.no_grad():
        images = torch.rand(2, 3, 64, 64)
        pooled = body.features(Standardise()(images)).mean(dim=(2, 3))  # type: ignore[operator]
        large = torch.rand(2, 3, 224, 224)
        token = vit((large - 0.5) / 0.5)
        return Networks(body, vit, own, images, large, pooled, token, own(images))


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Break the file of this number."""
    torch.set_num_threads(1)
    made = networks()
    torch.manual_seed(number)
    case = WAYS[number % len(WAYS)](made, random, folder)

    def read() -> Tensor:
        with torch.no_grad():
            if case.own:
                model = build("own", planted_net(), GAP(), Cosine(), nn.Linear(128, 16), True, str(case.path), 64)
                return model(made.images)
            images = made.large if case.large else made.images
            given = {"path": str(case.path), "similarity": COSINE, "image_size": images.shape[-1], **case.options}
            return configured(OmegaConf.create({"_target_": LOAD, **given}))(images)

    def wrong(found: Tensor) -> str:
        if (folder / "here" / "ran").exists():
            return "code in the file was run"
        if case.expected is None:
            return f"accepted: embeddings {tuple(found.shape)}"
        if found.shape != case.expected.shape:
            return f"embeddings {tuple(found.shape)}, expected {tuple(case.expected.shape)}"
        apart = float((found - nn.functional.normalize(case.expected)).abs().max())
        return "" if apart < case.tolerance else f"embeddings differ by {apart:.3g}"

    def guarded() -> Tensor:
        try:
            return read()
        except UserError as error:
            if (folder / "here" / "ran").exists():
                raise RuntimeError("code in the file was run") from error
            raise

    return Attempt(case.what, guarded, wrong, (case.path.name, *case.names), sound=case.sound)
