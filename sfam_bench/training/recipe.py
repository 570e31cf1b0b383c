"""The hyper-parameters of a training."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural, NotNegative, Positive, Range
from sfam_bench.models.similarity_model import SimilarityModel

Momentum = Annotated[float | int, Range(0, 0.9999)]
BODY, HEAD, PROXIES = "body", "head", "proxies"  # parameter groups with their own learning rates


@dataclass(frozen=True)
class Recipe(Checked):
    """Hyper-parameters of one training.

    per_class: images of each class in a batch; 0 samples batches independently of class.
    episodes: updates of an epoch, each with batch_size / per_class random classes of per_class different images, in
        this order; 0: an epoch holds as many images as the data set.
    part: all, or embedder: only the layers after the cut, on activations of the frozen trunk that are computed once.
    views: augmented versions of each image whose activations are cached, if part is embedder.
    lr, head_lr, loss_lr: peak learning rate of the network, of its neck and head (null: lr), of the loss's proxies.
    loss_weight_decay: weight decay of the proxies; null: weight_decay.
    momentum: of sgd and rmsprop.
    schedule: one_cycle (Smith, Topin, 2018), cosine to zero, step (by step_factor each step_epochs), or constant.
    warmup_epochs: linear warm-up before any schedule except one_cycle, which has its own.
    head_first_epochs: first epochs that train only head and proxies (warm-up of Proxy-Anchor; CVPR 2020).
    clip_norm, clip_value: maximum norm of the whole gradient, or magnitude of its entries; null: no clipping.
    freeze_batchnorm: use the running statistics and keep them fixed.
    ema: decay of an exponential moving average of the weights, which is validated and saved; null: none.
    amp: number type of the forward pass; float16 scales the loss.
    compile: use torch.compile, which is worthwhile on GPUs.
    checkpoint_steps: updates between checkpoints, which a killed job loses at most.
    workers: processes that load images; 0 loads in the main process. The images are the same.
    shuffle_labels: permute the labels, so that the model cannot learn real classes (Adebayo et al., NeurIPS 2018); its
        maps should differ.
    """

    epochs: Count = 12
    batch_size: Count = 32
    per_class: Natural = 4
    episodes: Natural = 0
    part: Literal["all", "embedder"] = "all"
    views: Count = 1
    optimiser: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw"
    momentum: Momentum = 0.9
    lr: NotNegative = 3e-4
    head_lr: NotNegative | None = None
    loss_lr: NotNegative = 1e-2
    weight_decay: NotNegative = 1e-4
    loss_weight_decay: NotNegative | None = None
    schedule: Literal["one_cycle", "cosine", "step", "constant"] = "one_cycle"
    warmup_epochs: NotNegative = 0
    step_epochs: Count = 10
    step_factor: Positive = 0.5
    head_first_epochs: Natural = 0
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    freeze_batchnorm: bool = False
    ema: float | int | None = None
    amp: Literal["no", "bfloat16", "float16"] = "no"
    compile: bool = False
    checkpoint_steps: Count = 200
    workers: Natural = 0
    seed: Natural = 0
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.lr or self.head_lr or self.loss_lr):
            raise UserError("train.lr, train.head_lr and train.loss_lr are all 0: nothing would be learnt")
        if self.per_class and self.batch_size % self.per_class:
            raise UserError(
                f"train.batch_size={self.batch_size} is not a multiple of train.per_class={self.per_class}: change "
                "one, or set per_class to 0"
            )
        if self.episodes and not self.per_class:
            raise UserError("train.episodes needs train.per_class: the supports and queries of a class")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise UserError("train.schedule=one_cycle has its own warm-up: set train.warmup_epochs=0")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"train.ema={self.ema}: give a decay between 0 and 1, such as 0.999, or null for none")

    def groups(self, model: SimilarityModel, criterion: nn.Module) -> list[dict[str, Any]]:
        """The optimiser's named parameter groups, without parameters that need no gradient."""
        head = set(model.embedder.projection.parameters())
        trained = model.embedder if self.part == "embedder" else model
        head_lr = self.lr if self.head_lr is None else self.head_lr
        decay = self.weight_decay if self.loss_weight_decay is None else self.loss_weight_decay
        groups = [
            {"name": BODY, "params": _with_gradient(w for w in trained.parameters() if w not in head), "lr": self.lr},
            {"name": HEAD, "params": _with_gradient(head & set(trained.parameters())), "lr": head_lr},
            {"name": PROXIES, "params": _with_gradient(criterion.parameters()), "lr": self.loss_lr},
        ]
        groups[-1]["weight_decay"] = decay
        groups = [{"weight_decay": self.weight_decay, **group} for group in groups if group["params"]]
        if not groups:
            raise UserError("nothing here can learn: train.part=embedder needs a head (head=linear) or an earlier cut")
        return groups

    def make_optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""
        if self.optimiser in ("adamw", "adam"):
            return (torch.optim.AdamW if self.optimiser == "adamw" else torch.optim.Adam)(groups)
        return (torch.optim.SGD if self.optimiser == "sgd" else torch.optim.RMSprop)(groups, momentum=self.momentum)

    def make_schedule(self, optimiser: torch.optim.Optimizer, epoch_steps: int) -> LRScheduler:
        """The schedule of the learning rates, stepped after each update."""
        if self.schedule == "one_cycle":
            return OneCycleLR(optimiser, [group["lr"] for group in optimiser.param_groups], self.epochs * epoch_steps)
        return LambdaLR(optimiser, lambda step: self.factor(step / epoch_steps, 1 / epoch_steps))

    def factor(self, epoch: float, part: float) -> float:
        """Share of the peak rate at a time in epochs, with `part` epochs per update; not used by one_cycle."""
        if epoch < self.warmup_epochs:
            return min(1.0, (epoch + part) / self.warmup_epochs)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, part)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.step_factor ** int(epoch // self.step_epochs) if self.schedule == "step" else 1.0


def _with_gradient(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [weight for weight in weights if weight.requires_grad]
