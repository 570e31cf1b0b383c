"""One training loop for every loss; knows nothing of explainers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

import numpy as np
import pandas as pd
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.stream import progress
from sfam_bench.types import Image

Miner = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Recipe:
    """How to train; the last epoch is kept, since choosing one by the test classes would be no protocol.

    `lr` is the peak of a one-cycle schedule (Smith, Topin, 2018), `loss_lr` that of the loss's own proxies;
    `per_class` images of a class come together in a batch; `freeze_batchnorm` keeps the running statistics;
    `shuffle_labels` gives each image the label of another, so that there is nothing true to learn (Adebayo et al.,
    NeurIPS 2018): maps of such a model ought to differ.
    """

    epochs: int = 12
    batch_size: int = 32
    per_class: int = 4
    lr: float = 3e-4
    loss_lr: float = 1e-2
    weight_decay: float = 1e-4
    freeze_batchnorm: bool = False
    workers: int = 0  # processes that load images; 0 loads in this one
    seed: int = 0
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.per_class < 1 or self.batch_size < 1 or self.batch_size % self.per_class:
            raise UserError(
                f"train.epochs={self.epochs}, train.batch_size={self.batch_size}, train.per_class={self.per_class}: "
                "each must be at least 1, and batch_size a multiple of per_class"
            )


def train(
    model: SimilarityModel,
    criterion: nn.Module,
    miner: Miner | None,
    image_ids: Sequence[str],
    labels: Sequence[int],
    load: Callable[[str], Image],
    recipe: Recipe,
) -> pd.DataFrame:
    """Train in place on images by id; returns mean loss and rate (images a second) of each epoch."""
    classes = {label: number for number, label in enumerate(sorted(set(labels)))}
    if len(classes) < 2:
        raise UserError(f"training needs two classes, not {len(classes)}: check dataset.split")
    if not recipe.batch_size <= min(len(labels), len(classes) * recipe.per_class):
        raise UserError(
            f"train.batch_size={recipe.batch_size} is more than {len(labels)} images or than train.per_class="
            f"{recipe.per_class} of each of {len(classes)} classes: lower it"
        )
    numbers = [classes[label] for label in labels]
    if recipe.shuffle_labels:
        numbers = np.random.default_rng(recipe.seed).permutation(numbers).tolist()
    seed(recipe.seed)
    loader = DataLoader(
        _Labelled(image_ids, numbers, load),
        recipe.batch_size,
        sampler=MPerClassSampler(numbers, recipe.per_class, recipe.batch_size, length_before_new_iter=len(numbers)),
        num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    optimiser = torch.optim.AdamW(
        [
            {"params": list(model.parameters()), "lr": recipe.lr},
            {"params": list(criterion.parameters()), "lr": recipe.loss_lr},
        ],
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [recipe.lr, recipe.loss_lr], steps)
    criterion.to(model.device)

    history = []
    with progress(None, "train", steps * recipe.batch_size, "image") as bar:
        for epoch in range(recipe.epochs):
            train_mode(model, recipe.freeze_batchnorm)
            total, started = 0.0, bar.format_dict["elapsed"]
            for number, (images, targets) in enumerate(loader, 1):
                loss = step(model, criterion, miner, images.to(model.device), targets.to(model.device), optimiser)
                schedule.step()
                total += loss
                bar.update(len(images))
                bar.set_postfix(epoch=f"{epoch + 1}/{recipe.epochs}", loss=f"{total / number:.3f}", refresh=False)
            seconds = bar.format_dict["elapsed"] - started
            history.append(
                {"epoch": epoch + 1, "loss": total / number, "images_per_second": recipe.batch_size * number / seconds}
            )
    model.eval()
    return pd.DataFrame(history)


class _Labelled(Dataset[tuple[Tensor, int]]):
    """What torch's loader asks of a data set; its worker processes seed their own augmentations."""

    def __init__(self, image_ids: Sequence[str], labels: Sequence[int], load: Callable[[str], Image]) -> None:
        self.image_ids, self.labels, self.load = image_ids, labels, load

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: SupportsIndex) -> tuple[Tensor, int]:  # the sampler's are numpy's
        return self.load(self.image_ids[index(position)]), self.labels[index(position)]


def seed(number: int) -> None:
    """Seed torch, and numpy's global generator, which the sampler draws from."""
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002


def step(
    model: SimilarityModel,
    criterion: nn.Module,
    miner: Miner | None,
    images: Tensor,
    targets: Tensor,
    optimiser: torch.optim.Optimizer,
) -> float:
    """One update; returns the loss."""
    embeddings = model(images)
    loss: Tensor = (
        criterion(embeddings, targets) if miner is None else criterion(embeddings, targets, miner(embeddings, targets))
    )
    if not loss.isfinite():
        raise UserError(f"the loss became {loss.item()}: lower train.lr or train.loss_lr")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.item()


def train_mode(model: nn.Module, freeze_batchnorm: bool) -> None:
    """Training mode, but for the batch-norm layers where their statistics stay."""
    model.train()
    for module in model.modules():
        if freeze_batchnorm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
