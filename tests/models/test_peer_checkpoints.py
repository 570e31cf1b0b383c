"""Files that other code bases write with their own code give the embeddings that this code computes.

Their code is read from checkouts, sub-folders of $SFAM_BENCH_PEERS by the names of the repositories, and imports what
it needs: pretrainedmodels, and what open-metric-learning requires. What is absent is skipped.
"""

import argparse
import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from sfam_bench.core.similarity import Cosine
from sfam_bench.models.adapters.load import checkpoint
from tests.models.weights import randomised

PEERS = Path(os.environ.get("SFAM_BENCH_PEERS", "")).absolute()
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
DIMS = 32
GOOGLENET = {"transform_input": True, "aux_logits": False, "init_weights": False}  # what pretrained=True sets

pytestmark = pytest.mark.skipif("SFAM_BENCH_PEERS" not in os.environ, reason="no checkouts: set SFAM_BENCH_PEERS")


@pytest.fixture
def peer() -> Iterator[Callable[[str, str], Any]]:
    """`peer(folder, module)` imports a module of a checkout, whose names are forgotten after the test."""
    before, path = set(sys.modules), list(sys.path)

    def imported(folder: str, module: str) -> Any:
        if not (PEERS / folder).is_dir():
            pytest.skip(f"no checkout at {PEERS / folder}")
        sys.path.insert(0, str(PEERS / folder))
        try:
            return importlib.import_module(module)
        except ImportError as error:
            pytest.skip(f"{folder} cannot be imported: {error}")

    yield imported
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(PEERS) in str(getattr(sys.modules[name], "__file__", "") or getattr(sys.modules[name], "__path__", "")):
            del sys.modules[name]


def pixels(size: int = 224) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def same(path: Path, theirs: torch.Tensor, record: Callable[[str, object], None], **options: Any) -> Any:
    """The file, loaded, gives `theirs`, to 1e-5 of embeddings of length 1 at most."""
    size = options.pop("size", 224)
    model = checkpoint(str(path), Cosine(), image_size=size, **options)
    ours = model.encode(pixels(size)).embeddings
    difference = (ours - theirs).abs().max().item()
    record("difference", difference)
    assert ours.shape == theirs.shape
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3
    assert difference < 1e-5
    return model


# Proxy-Anchor


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("net.bn_inception", "bn_inception"),
        ("net.resnet", "Resnet18"),
        ("net.resnet", "Resnet50"),
        ("net.googlenet", "googlenet"),
    ],
)
def test_proxy_anchor(module, name, peer, tmp_path, record_property):
    theirs = randomised(getattr(peer("Proxy-Anchor-CVPR2020/code", module), name)(DIMS, pretrained=False))
    transforms = (
        peer("Proxy-Anchor-CVPR2020/code", "dataset.utils").make_transform(False, name == "bn_inception").transforms
    )
    torch.save({"model_state_dict": theirs.state_dict()}, tmp_path / "cub_best.pth")  # as in its train.py
    images = pixels()
    for step in transforms:  # after those of PIL images
        if type(step).__name__ in ("ScaleIntensities", "Normalize"):
            if type(step).__name__ == "ScaleIntensities":
                images = images.flip(1)
            images = step(images)
    with torch.no_grad():
        embeddings = theirs(images)
    model = same(tmp_path / "cub_best.pth", embeddings, record_property)
    assert model.origin.items() >= {"source": "proxy-anchor", "chosen": "test"}.items()


# Revisiting deep metric learning


@pytest.mark.parametrize(
    "arch",
    [
        "resnet50_frozen_normalize",
        "resnet50",
        "bninception_normalize_frozen",
        "bninception_normalize_double",
        "googlenet_normalize",
    ],
)
def test_revisiting_dml(arch, peer, tmp_path, record_property):
    folder = "Revisiting_Deep_Metric_Learning_PyTorch"
    architectures, evaluation = peer(folder, "architectures"), peer(folder, "evaluation")
    logger, scaffold = peer(folder, "utilities.logger"), peer(folder, "datasets.basic_dataset_scaffold")
    opt = argparse.Namespace(
        arch=arch,
        embed_dim=DIMS,
        not_pretrained=True,
        dataset="cub200",
        device=torch.device("cpu"),
        lr=1e-5,
        augmentation="base",
        storage_metrics=["e_recall@1"],
    )
    with without_download():
        theirs = randomised(architectures.select(arch, opt))
    progress = {"Test": logger.Progress_Saver()}
    progress["Test"].log("e_recall@1", np.float64(0.6), group="discriminative_e_recall")
    path = tmp_path / "checkpoint_Test_discriminative_e_recall@1.pth.tar"
    evaluation.set_checkpoint(theirs, opt, progress, str(path))
    normalise = scaffold.BaseDataset({0: ["a"]}, opt, is_validation=True).f_norm
    images = normalise(pixels())
    images = images.flip(1) if "bninception" in arch else images  # as its __getitem__ does
    with torch.no_grad():
        embeddings = theirs(images)
    embeddings = embeddings[0] if isinstance(embeddings, tuple) else embeddings
    model = same(path, embeddings, record_property)
    assert model.origin.items() >= {"source": "revisiting-dml", "chosen": "test"}.items()


@contextmanager
def without_download() -> Iterator[None]:
    """Networks that insist on ImageNet weights are given random ones."""
    import pretrainedmodels
    import torchvision

    plain, bare = torchvision.models.googlenet, pretrainedmodels.bninception
    with (
        patch.object(torchvision.models, "googlenet", lambda pretrained: plain(weights=None, **GOOGLENET)),
        patch.object(pretrainedmodels, "bninception", lambda num_classes, pretrained: bare(num_classes, None)),
    ):
        yield


# open-metric-learning


OML = "open-metric-learning"


def lightning(path: Path, extractor: nn.Module, peer: Callable[[str, str], Any]) -> None:
    """Save an extractor as OML's pipelines do: by Lightning's trainer, in its module, with a criterion beside it."""
    module = peer(OML, "oml.lightning.modules.extractor").ExtractorModule(extractor, criterion=nn.Linear(4, 4))
    trainer = peer(OML, "pytorch_lightning").Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


@pytest.mark.parametrize("arch", ["vits16", "vits8", "vits14", "vits14_reg"])
def test_open_metric_learning_vit(arch, peer, tmp_path, record_property):
    theirs = randomised(peer(OML, "oml.models.vit_dino.extractor").ViTExtractor(None, arch, normalise_features=True))
    lightning(tmp_path / "best.ckpt", theirs, peer)
    size = 518 if "14" in arch else 224
    with torch.no_grad():
        embeddings = theirs((pixels(size) - MEAN) / STD)
    model = same(tmp_path / "best.ckpt", embeddings, record_property, size=size)
    assert model.origin.items() >= {"source": "open-metric-learning", "chosen": "unknown"}.items()


def test_open_metric_learning_zoo(peer, tmp_path, record_property):
    theirs = randomised(
        peer(OML, "oml.models.vit_dino.extractor").ViTExtractor(None, "vits16", normalise_features=False)
    )
    torch.save({"state_dict": OrderedDict(theirs.state_dict())}, tmp_path / "vits16_cub.ckpt")
    with torch.no_grad():
        embeddings = theirs((pixels() - MEAN) / STD)
    model = same(tmp_path / "vits16_cub.ckpt", embeddings, record_property, normalise=False)
    assert model.origin["chosen"] == "test"
    assert set(range(1, 201)) <= set(model.origin["split"]["train_classes"])


@pytest.mark.parametrize(
    ("arch", "remove_fc"), [("resnet18", True), ("resnet50", False), ("resnet50_projector", False)]
)
def test_open_metric_learning_resnet(arch, remove_fc, peer, tmp_path, record_property):
    resnet = peer(OML, "oml.models.resnet.extractor").ResnetExtractor
    theirs = randomised(resnet(None, arch, gem_p=None, remove_fc=remove_fc, normalise_features=True))
    lightning(tmp_path / "best.ckpt", theirs, peer)
    with torch.no_grad():
        embeddings = theirs((pixels() - MEAN) / STD)
    same(tmp_path / "best.ckpt", embeddings, record_property, source="open-metric-learning")


def test_open_metric_learning_projection(peer, tmp_path, record_property):
    vit = peer(OML, "oml.models.vit_dino.extractor").ViTExtractor(None, "vits16", normalise_features=False)
    theirs = randomised(peer(OML, "oml.models.meta.projection").ExtractorWithMLP(vit, [48, DIMS]))
    lightning(tmp_path / "best.ckpt", theirs, peer)
    with torch.no_grad():
        embeddings = theirs((pixels() - MEAN) / STD)
    same(tmp_path / "best.ckpt", embeddings / embeddings.norm(dim=1, keepdim=True), record_property)


def test_open_metric_learning_clip(peer, tmp_path, record_property):
    clip = peer(OML, "oml.models.vit_clip.extractor").ViTCLIPExtractor
    theirs = randomised(clip(None, "vitb32_224", normalise_features=True))
    lightning(tmp_path / "best.ckpt", theirs, peer)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        embeddings = theirs((pixels() - mean) / std)
    same(tmp_path / "best.ckpt", embeddings, record_property)
