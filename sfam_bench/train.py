"""One training loop for every loss; knows nothing of explainers."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from tqdm import tqdm

from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.stream import chunked, prefetched
from sfam_bench.types import Image

log = logging.getLogger(__name__)

Miner = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Recipe:
    """How to train; the last epoch is kept, since choosing one by the test classes would be no protocol.

    `lr` is the peak of a one-cycle schedule (Smith, Topin, 2018), `loss_lr` that of the loss's own proxies;
    `per_class` images of a class come together in a batch; `freeze_batchnorm` keeps the running statistics.
    """

    epochs: int = 12
    batch_size: int = 32
    per_class: int = 4
    lr: float = 3e-4
    loss_lr: float = 1e-2
    weight_decay: float = 1e-4
    freeze_batchnorm: bool = False
    seed: int = 0


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
    numbers = [classes[label] for label in labels]
    torch.manual_seed(recipe.seed)
    order = MPerClassSampler(numbers, recipe.per_class, recipe.batch_size, length_before_new_iter=len(numbers))
    steps = recipe.epochs * math.ceil(len(order) / recipe.batch_size)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(model.parameters()), "lr": recipe.lr},
            {"params": list(criterion.parameters()), "lr": recipe.loss_lr},
        ],
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [recipe.lr, recipe.loss_lr], steps)
    criterion.to(model.device)

    def batch(positions: list[int]) -> tuple[Tensor, Tensor]:
        return torch.stack([load(image_ids[i]) for i in positions]), torch.tensor([numbers[i] for i in positions])

    history = []
    with tqdm(total=steps * recipe.batch_size, desc="train", unit="image") as progress:
        for epoch in range(recipe.epochs):
            train_mode(model, recipe.freeze_batchnorm)
            total, started = 0.0, progress.format_dict["elapsed"]
            for number, (images, targets) in enumerate(prefetched(batch, chunked(order, recipe.batch_size)), 1):
                loss = step(model, criterion, miner, images.to(model.device), targets.to(model.device), optimiser)
                schedule.step()
                total += loss
                progress.update(len(images))
                progress.set_postfix(epoch=f"{epoch + 1}/{recipe.epochs}", loss=f"{total / number:.3f}")
            seconds = progress.format_dict["elapsed"] - started
            history.append({"epoch": epoch + 1, "loss": total / number, "images_per_second": len(order) / seconds})
    model.eval()
    return pd.DataFrame(history)


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
