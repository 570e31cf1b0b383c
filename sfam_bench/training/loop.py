"""One training loop for every loss; independent of explainers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic
from sfam_bench.core.provenance import Config
from sfam_bench.core.records import pair_seed
from sfam_bench.core.signals import Interrupted, StopRequest, catch_signals
from sfam_bench.core.stream import progress
from sfam_bench.models.checkpoint import read_ours, weights, write_weights
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.training.checkpoint import (
    BEST,
    BEST_LOSS,
    FOLDER,
    Checkpoints,
    Progress,
    Stateful,
    lock_folder,
    remove_best,
)
from sfam_bench.training.data import AugmentedImages, CachedActivations, Examples, Order, seed_generators
from sfam_bench.training.distributed import any_process, gather_rows, rank, world_size
from sfam_bench.training.recipe import BODY, Recipe
from sfam_bench.training.validation import Choice

Miner = Callable[[Tensor, Tensor], object]
DTYPES = {"no": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    model: SimilarityModel,
    criterion: nn.Module,
    miner: Miner | None,
    examples: Examples,
    recipe: Recipe,
    *,
    choice: Choice | None = None,
    run: Path | None = None,
    identity: Config | None = None,
    any_code: bool = False,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
) -> pd.DataFrame:
    """Train the model in place; it ends with the best epoch if there is a `choice`, else with the last.

    Returns loss, speed and validation measures of each epoch. With a folder `run`, history and checkpoints are written
    there, and a training started there with the same `identity` is continued exactly; by other code only if `any_code`
    is set. The frame's attribute "code" lists the code hashes and the first step of each. Raises Interrupted after a
    stop signal. `log` is called with step and values.
    """
    checkpoints = Checkpoints(run / FOLDER, identity or {}, any_code) if run else None
    with lock_folder(run) if run and rank() == 0 else nullcontext():
        return _Training(model, criterion, miner, examples, recipe, choice, run, checkpoints, log).fit()


def plain_errors(batches: DataLoader[Any]) -> Iterator[Any]:
    """The batches; a UserError of a worker process is raised without the traceback that the loader puts around it."""
    try:
        yield from batches
    except UserError as error:
        _, worker, message = str(error).rpartition("UserError: ")
        if worker and "Traceback" in str(error):
            raise UserError(message.strip()) from None
        raise


class _Training:
    def __init__(
        self,
        model: SimilarityModel,
        criterion: nn.Module,
        miner: Miner | None,
        examples: Examples,
        recipe: Recipe,
        choice: Choice | None,
        run: Path | None,
        checkpoints: Checkpoints | None,
        log: Callable[[int, Mapping[str, float]], None] | None,
    ) -> None:
        self.model, self.criterion, self.miner, self.recipe = model, criterion.to(model.device), miner, recipe
        self.choice, self.run, self.checkpoints, self.log = choice, run, checkpoints, log
        numbers = examples.number_classes(recipe)
        self.groups = recipe.groups(model, criterion)
        self.optimiser = recipe.make_optimiser(self.groups)
        self.data: Dataset[tuple[Tensor, int]] = AugmentedImages(examples, numbers, recipe.seed)
        self.trained: nn.Module = model
        if recipe.part == "embedder":
            self.data, self.trained = CachedActivations(model, examples, numbers, recipe), model.embedder
        self.order = Order(numbers, recipe, rank(), world_size())
        self.schedule = recipe.make_schedule(self.optimiser, len(self.order))
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.amp == "float16")
        self.at = Progress()
        self.learning: dict[str, Stateful] = {
            **{"criterion": criterion, "optimiser": self.optimiser, "schedule": self.schedule, "scaler": self.scaler}
        }
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
            self.learning["average"] = self.average
        part: Any = DistributedDataParallel(self.trained) if world_size() > 1 else self.trained
        self.forward: Callable[[Tensor], Tensor] = torch.compile(part) if recipe.compile else part

    def fit(self) -> pd.DataFrame:
        if self.checkpoints and (path := self.checkpoints.newest()):
            facts = self.checkpoints.read(path, self.model, self.learning)
            self.at = Progress(**facts["progress"])
        else:
            self._write()  # fails before training if the model cannot be saved here
        steps, size = self.recipe.epochs * len(self.order), self.recipe.batch_size
        batches = DataLoader(
            self.data,
            batch_sampler=self.order,
            num_workers=self.recipe.workers,
            persistent_workers=self.recipe.workers > 0,
            pin_memory=self.model.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.recipe.seed),  # its own, so that torch's is not advanced
        )
        with progress(None, "train", steps * size, "image") as bar, catch_signals() as request:
            bar.disable = bar.disable or rank() > 0
            bar.update(self.at.step * size)
            while self.at.step < steps:
                self.order.step = self.at.step
                self.model.eval()
                set_train_mode(self.trained, self.recipe.freeze_batchnorm)
                started, images_seen = perf_counter(), 0
                for images, targets in plain_errors(batches):
                    epoch, done = divmod(self.at.step, len(self.order))
                    loss = self._update(images, targets)
                    self.at.total += loss
                    self.at.step += 1
                    images_seen += size
                    mean = self.at.total / (done + 1)
                    bar.set_postfix_str(f"epoch {epoch + 1}/{self.recipe.epochs}, loss {mean:.3f}", refresh=False)
                    bar.update(size)
                    if self.log:
                        self.log(self.at.step, {"loss": loss, "lr": self.optimiser.param_groups[0]["lr"]})
                    if done + 1 == len(self.order):
                        self._end_epoch(epoch + 1, images_seen, perf_counter() - started)
                    self._write_or_stop(request)
        self._finish()
        history = pd.DataFrame(self.at.history)
        history.attrs["code"] = self.checkpoints.code if self.checkpoints else []
        return history

    def _update(self, images: Tensor, targets: Tensor) -> float:
        recipe, device, step = self.recipe, self.model.device, self.at.step
        seed_generators(pair_seed(recipe.seed, "update", str(step), str(rank())))
        memory = torch.channels_last if images.ndim == 4 else torch.preserve_format
        images = images.to(device, memory_format=memory, non_blocking=True)
        with torch.autocast(device.type, DTYPES[recipe.amp], enabled=recipe.amp != "no"):
            share = self.forward(images)
        embeddings, targets = gather_rows(share.float()), gather_rows(targets.to(device))
        seed_generators(pair_seed(recipe.seed, "loss", str(step)))  # miners must draw the same in each process
        mined = [self.miner(embeddings, targets)] if self.miner else []
        loss: Tensor = self.criterion(embeddings, targets, *mined)
        if not loss.isfinite():
            raise UserError(f"the loss became {loss.item()} at update {step}: lower train.lr or train.loss_lr")
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._clip_gradient()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        return loss.item()

    def _clip_gradient(self) -> None:
        """Clip the gradient; remove that of the body while head and proxies train alone."""
        self.scaler.unscale_(self.optimiser)
        if self.at.step // len(self.order) < self.recipe.head_first_epochs:
            for weight in (weight for group in self.groups if group["name"] == BODY for weight in group["params"]):
                weight.grad = None
        weights = [weight for group in self.groups for weight in group["params"]]
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, self.recipe.clip_norm)
        if self.recipe.clip_value is not None:
            nn.utils.clip_grad_value_(weights, self.recipe.clip_value)

    def _write_or_stop(self, request: StopRequest) -> None:
        """Write a checkpoint if one is due; stop if any process received a signal."""
        stop = any_process(request.number is not None, self.model.device)
        if stop or self.at.step % self.recipe.checkpoint_steps == 0:
            self._write()
        if stop:
            raise Interrupted(request.number or 15, f"update {self.at.step}")

    def _write(self) -> None:
        if self.checkpoints and rank() == 0:
            facts = {"seed": self.recipe.seed, "progress": vars(self.at)}
            self.checkpoints.write(self.at.step, self.model, self.learning, facts)
            if self.run:
                remove_best(self.run, but=self.at.best_epoch)

    def _end_epoch(self, epoch: int, images: int, seconds: float) -> None:
        row = {"epoch": epoch, "loss": self.at.total / len(self.order)}
        row |= {"seconds": seconds, "images_per_second": images / seconds}
        self.at.total = 0.0
        if rank():
            return
        if self.choice and (epoch % self.choice.every == 0 or epoch == self.recipe.epochs):
            with self._use_average():
                measures = self.choice.measures()
                if self.at.best is None or measures[self.choice.by] > self.at.best:
                    self.at.best, self.at.best_epoch = float(measures[self.choice.by]), epoch
                    self._keep_best()
            row |= {f"validation_{name}": value for name, value in measures.items()}
        self.at.history.append(row)
        self._write_history()
        if self.log:
            self.log(self.at.step, {name: float(value) for name, value in row.items() if name != "epoch"})

    def _write_history(self) -> None:
        if self.run and rank() == 0:
            with atomic(self.run / "history.csv") as file:
                pd.DataFrame(self.at.history).to_csv(file, index=False)

    @contextmanager
    def _use_average(self) -> Iterator[None]:
        """Load the moving average into the model while the block runs, if there is one."""
        if self.average is None:
            yield
            return
        own = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def _keep_best(self) -> None:
        """Store the weights of the best epoch, in the run's folder or in memory."""
        if self.run:
            write_weights(weights(self.model), self.run / BEST.format(self.at.best_epoch))
            if proxies := weights(self.criterion):
                write_weights(proxies, self.run / BEST_LOSS.format(self.at.best_epoch))
        else:
            self.best_weights, self.best_loss = (
                {key: value.clone() for key, value in part.state_dict().items()}
                for part in (self.model, self.criterion)
            )

    def _finish(self) -> None:
        self._write_history()  # again, as a training continued at its end ran no epoch
        if self.average:
            self.model.load_state_dict(self.average.module.state_dict())
        if self.at.best_epoch is not None:
            if self.run is None:
                self.model.load_state_dict(self.best_weights)
                self.criterion.load_state_dict(self.best_loss)
            else:
                best, loss = (self.run / name.format(self.at.best_epoch) for name in (BEST, BEST_LOSS))
                self.model.load_state_dict(read_ours(best))
                if loss.is_file():
                    self.criterion.load_state_dict(read_ours(loss))
        self.model.eval()


def set_train_mode(model: nn.Module, freeze_batchnorm: bool) -> None:
    """Set training mode; batch-norm layers stay in eval mode if `freeze_batchnorm`."""
    model.train()
    for module in model.modules():
        if freeze_batchnorm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
