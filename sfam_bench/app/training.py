"""What the training script builds from the config."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sfam_bench.app.parts import image_ids, read_labels
from sfam_bench.app.settings import build, resolve
from sfam_bench.core.errors import UserError, check_range
from sfam_bench.core.files import read_json
from sfam_bench.core.geometry import describe_size, sides
from sfam_bench.core.provenance import Config, differences
from sfam_bench.core.ranges import Count, Finite, NotNegative, Positive
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.datasets.geometry import Augmentation
from sfam_bench.models.build import origin_of
from sfam_bench.models.checkpoint import read_ours
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.recall import average_retrieval, embed, per_item, roles_of
from sfam_bench.training.loop import Miner
from sfam_bench.training.validation import Choice, Validation

Log = Callable[[int, Mapping[str, float]], None]
KEYS = ["image_id", "label"]
# Numbers of pytorch-metric-learning's losses and miners
POSITIVE = (
    *("temperature", "scale", "softmax_scale", "alpha", "beta", "gamma", "la"),
    *("cutoff", "nonzero_loss_cutoff"),
)
NOT_NEGATIVE = ("margin", "pos_margin", "neg_margin", "m", "nu", "epsilon")
COUNTS = ("centers_per_class", "sub_centers")
NO_MATTER = ("workers", "checkpoint_steps")  # of the recipe: they change no weight

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roles:
    """The images for training, for the choice of the epoch, and for measuring alone."""

    train: list[str]
    validation: list[str]
    test: list[str]

    @classmethod
    def of(cls, dataset: Dataset, validation: Validation | None) -> "Roles":
        """The roles of a data set's images; validation takes classes from the training split."""
        train, test = image_ids(dataset, "train"), image_ids(dataset, "test")
        held = validation.held_out(read_labels(dataset, train).tolist()) if validation else [False] * len(train)
        if validation and validation.folds is None:
            return cls(train, image_ids(dataset, "validation"), test)
        kept, out = ([image for image, is_out in zip(train, held, strict=True) if is_out == side] for side in (0, 1))
        return cls(kept, out, test)


def build_augmentation(cfg: DictConfig, model: SimilarityModel) -> Any:
    """The augmentation, with crops of the size of the model's images; None without one."""
    augment, size = build(cfg.augmentation), model.geometry.crop
    if not isinstance(augment, Augmentation):
        return augment
    if augment.crop is not None and sides(augment.crop) != sides(size):
        raise UserError(
            f"augmentation.crop is {describe_size(augment.crop)}, and {model.name} takes {describe_size(size)}: leave "
            "augmentation.crop null, or set model.image_size to the same"
        )
    return replace(augment, crop=size)


def check_loss(settings: Any, name: str) -> None:
    """Raise UserError if a number of a loss or a miner is out of its range: their classes do not check."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            check_loss(value, f"{name}.{key}")
        return
    field = name.rpartition(".")[2]
    ranged = field in (*POSITIVE, *NOT_NEGATIVE, *COUNTS)
    if isinstance(settings, bool) or not isinstance(settings, int | float):
        if ranged and settings != "???":
            raise UserError(f"{name} is {settings!r}: expected a number")
        return
    if field in COUNTS and not isinstance(settings, int):
        raise UserError(f"{name} is {settings!r}: expected an integer")
    hint = Count if field in COUNTS else Positive if field in POSITIVE else NotNegative if ranged else Finite
    check_range(name, settings, hint)


def build_loss(cfg: DictConfig, sizes: Mapping[str, int]) -> tuple[nn.Module, Miner | None]:
    """Build the criterion, with the sizes that it needs, and the miner."""
    for name, where in (("criterion", "loss.criterion"), ("miner", "miner")):
        check_loss(resolve(cfg)["loss"][name], where)
    given = {name: size for name, size in sizes.items() if name in set(cfg.loss.criterion)}
    return build(cfg.loss.criterion, **given), build(cfg.loss.miner)


def measure_retrieval(cfg: DictConfig, dataset: Dataset, model: SimilarityModel, image_ids: list[str]) -> pd.DataFrame:
    """Retrieval measures of each of these images, with id and label."""
    label = read_labels(dataset, image_ids)
    gallery, roles = embed(model, dataset, image_ids, cfg.batch_size), roles_of(dataset, image_ids)
    values = per_item(model.similarity, gallery, label, list(cfg.recall_at), roles=roles)
    ids = pd.DataFrame({"image_id": image_ids, "label": label.numpy()}).loc[values.index]
    return pd.concat([ids, values], axis=1)


def epoch_choice(
    cfg: DictConfig, validation: Validation | None, dataset: Dataset, model: SimilarityModel, held_out: list[str]
) -> Choice | None:
    """How the epoch is chosen; None keeps the last one."""
    if validation is None:
        return None
    return Choice(
        lambda: average_retrieval(measure_retrieval(cfg, dataset, model, held_out).drop(columns=KEYS)),
        validation.measure,
        validation.every,
    )


def best_epoch(validation: Validation, history: pd.DataFrame) -> dict[str, Any]:
    """The epoch that was kept, and why."""
    best = history.iloc[int(history[f"validation_{validation.measure}"].argmax())]
    return vars(validation) | {str(name): value for name, value in best.items()}


def identity(settings: Config, split: str) -> dict[str, Any]:
    """The identity that a training must share to be continued: its settings and the hash of its split."""
    parts = {name: settings[name] for name in ("model", "loss", "augmentation", "validation", "seed")}
    recipe = {name: value for name, value in settings["train"].items() if name not in NO_MATTER}
    images = {name: value for name, value in settings["dataset"].items() if name != "root"}
    return {**parts, "train": recipe, "dataset": images, "split": split}


def check_trained(run: Path, same: Config) -> None:
    """Raise UserError if the finished training in a folder had other settings, or does not record them."""
    again = "train again into another run_dir"
    facts = read_json(run / "model.json", again)
    try:
        before = identity(facts["config"], facts["split"]["hash"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run / 'model.json'} does not record the training settings: {again}") from error
    if changes := differences(before, same, 8):
        raise UserError(f"{run} was trained with other settings ({changes}): give the same, or another run_dir")
    weights = run / "model.safetensors"
    origin_of(weights)  # they belong to model.json
    read_ours(weights)  # and are whole


def learnable(model: SimilarityModel) -> dict[str, list[Tensor]]:
    """Copies of the parameters of each part of a network, by the names of parts in `origin["random"]`."""
    parts = {"trunk": model.trunk, "head": model.embedder.projection}
    return {name: [weight.detach().clone() for weight in part.parameters()] for name, part in parts.items()}


def still_random(model: SimilarityModel, start: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """The parts that had random weights at the start of a training and have them still, which is logged."""
    now = learnable(model)
    same = [part for part, weights in start.items() if all(map(torch.equal, weights, now[part]))]
    found = [part for part in model.origin.get("random", ()) if part in same]
    for part in found:
        log.warning("nothing was learnt in the %s, whose weights are random still: see loss and train.*", part)
    return found


def training_facts(dataset: Dataset, origin: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """How the weights were chosen and on which classes they were trained, initial weights included."""
    images, before = image_ids(dataset, "train"), origin.get("split", {})
    classes, names = set(read_labels(dataset, images).tolist()), {*dataset.index.loc[images, "class_name"].astype(str)}
    if before.get("dataset") == dataset.name:
        classes |= set(before["train_classes"])
        names = names | {*before["class_names"]} if "class_names" in before else set()  # some would be unknown
    return {
        "chosen": "test" if origin.get("chosen") == "test" else chosen,
        "split": {
            **{"dataset": dataset.name, "name": dataset.split_name, "hash": split_hash(dataset.index)},
            "train_classes": sorted(classes),
            **({"class_names": sorted(names)} if names else {}),
        },
        **({"began_from": dict(origin)} if origin else {}),
    }


@contextmanager
def log_tensorboard(folder: Path, wanted: bool) -> Iterator[Log | None]:
    """A function that logs numbers by step to TensorBoard, if `tensorboard` is set."""
    if not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard=true needs TensorBoard: pip install '.[tensorboard]' in the clone") from error
    with SummaryWriter(str(folder)) as writer:

        def log(step: int, numbers: Mapping[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        yield log
