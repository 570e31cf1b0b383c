"""What several scripts build alike from the config."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.utils import make_grid

from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import describe_geometry, describe_size
from sfam_bench.core.metric_card import list_needs
from sfam_bench.core.protocol import Evaluated, Protocol
from sfam_bench.core.provenance import Config, differences
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Target
from sfam_bench.core.types import Images
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.datasets.episodes import SUPPORTS, VECTOR, Episodes
from sfam_bench.datasets.folder import ImageFolder
from sfam_bench.datasets.pair_list import PairList
from sfam_bench.datasets.pairs import PairChoice
from sfam_bench.datasets.vector_pairs import VectorPairs
from sfam_bench.engine.calibration import Calibration
from sfam_bench.engine.memory import keep_memory
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.cost import Cost, try_explainers
from sfam_bench.evaluation.evaluate import count_passes, own_passes
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.prepare import Bank, Preparable
from sfam_bench.metrics.shared.base import Metric
from sfam_bench.models.build import weights_hash
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.runs.continued import Resume, refuse_results
from sfam_bench.runs.store import RunStore

Choice: TypeAlias = PairChoice | PairList | VectorPairs | Episodes

NOT_ONE = "none of the explainers fits this model and target: choose others"


def use_allotted_threads() -> None:
    """Use as many threads as SLURM allotted; a job may see all cores of its node."""
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        torch.set_num_threads(int(cpus))


def dataset_and_model(cfg: DictConfig) -> tuple[Dataset, SimilarityModel]:
    """The data set, and the model on its device; seeded, so that untrained weights repeat."""
    if cfg.keep_memory:
        keep_memory()
    dataset = build(cfg.dataset)
    torch.manual_seed(cfg.seed)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # channels_last is the faster layout for convolutions, a third and more on CPUs
    model = build(cfg.model).to(memory_format=torch.channels_last)
    if "random" not in model.origin:
        code = f"of {OmegaConf.select(cfg, 'model.trunk._target_') or cfg.model._target_}"
        model.origin = {"weights": code, **model.origin, "random": find_random(cfg, model)}
    try:
        return fit_geometry(dataset, model), model.to(device)
    except (RuntimeError, AssertionError) as error:  # unknown or absent device
        raise UserError(f"device={device} cannot be used here; leave it null, or choose cpu or cuda") from error


def find_random(cfg: DictConfig, model: SimilarityModel) -> list[str]:
    """The parts of a model that have other weights if it is built with another seed: trunk, head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed + 1)
        other = build(cfg.model).state_dict()
    differing = [key for key, value in model.state_dict().items() if not torch.equal(value, other[key])]
    of_head = {key.startswith("embedder.projection.") for key in differing}
    return [part for part, is_head in (("trunk", False), ("head", True)) if is_head in of_head]


def fit_geometry(dataset: Dataset, model: SimilarityModel) -> Dataset:
    """The data set with the geometry of the model; UserError if it has one of its own, with another size of images."""
    if isinstance(dataset, ImageFolder) and dataset.geometry is None:
        return replace(dataset, geometry=model.geometry)
    own, size = getattr(dataset, "geometry", None), model.geometry.size
    rows, cols = own.size if own else dataset.sample(str(dataset.index.index[0])).image.shape[-2:]
    if (rows, cols) != size:
        geometry = "leave dataset.geometry null, or " if own else ""
        raise UserError(
            f"{dataset.name} gives images of {describe_size((rows, cols))}, and {model.name} takes "
            f"{describe_size(size)}: {geometry}set model.image_size={rows if rows == cols else [rows, cols]} if that "
            "is meant"
        )
    if own and own != model.geometry:
        print(f"images: {describe_geometry(own)}, as dataset.geometry sets, not {describe_geometry(model.geometry)}")
    return dataset


def image_ids(dataset: Dataset, split: str) -> list[str]:
    """The images of a split, in the order of the index."""
    index = dataset.index
    if split != "all" and split not in set(index["split"]):
        raise UserError(
            f"{dataset.name} has no split '{split}': choose {', '.join(sorted(set(index['split'])))} or all"
        )
    return [str(image_id) for image_id in (index.index if split == "all" else index.index[index["split"] == split])]


def pair_choice(cfg: DictConfig) -> Choice:
    """How the pairs are chosen: by `episodes` or `vectors` if given, else by `pairs`, or the CSV that it names."""
    if given := [name for name in ("episodes", "vectors") if cfg.get(name)]:
        if len(given) > 1:
            raise UserError("references are prototypes (episodes) or vectors (vectors), not both: leave one null")
        other: Episodes | VectorPairs = build(cfg[given[0]])
        return other
    if isinstance(cfg.pairs, str):
        return PairList(cfg.pairs, seed=cfg.seed)
    chosen: Choice = build(cfg.pairs)
    return chosen


def check_protocol(
    cfg: DictConfig, dataset: Dataset, model: SimilarityModel, evaluated: Sequence[str], training: bool = False
) -> dict[str, Any]:
    """Protocol facts of the model on these images; UserError if it may not be evaluated on them.

    `training`: it is trained first, so that random weights are no fault.
    """
    classes = Evaluated.of(dataset.name, split_hash(dataset.index), dataset.index, evaluated)
    name = cfg.model.get("checkpoint") or cfg.model.get("path") or model.name
    protocol = build(cfg.protocol) or Protocol()  # protocol=null allows nothing either
    origin = {**model.origin, "random": []} if training else model.origin
    facts: dict[str, Any] = protocol.admit(str(name), origin, classes)
    return facts


def open_run(root: Path, identity: Config, resume: Resume) -> RunStore:
    """Open a run folder, new or to be continued; UserError if it belongs to another run."""
    refuse_results(root, resume)
    return RunStore.create(root, identity, {}, resume) if (root / "manifest.json").is_file() else RunStore(root)


def restore_passes(cfg: DictConfig, model: SimilarityModel, known: Mapping[str, Any]) -> None:
    """Restore the passes and the thread count of a continued run; `known` are the passes in its manifest.

    UserError if it was started on another device, or in another mode than requested.
    """
    if known.get("device", model.device.type) != model.device.type:
        raise UserError(
            f"{cfg.run_dir} was started on {known['device']}, and this is {model.device.type}: continue it with "
            f"device={known['device']}, or choose another run_dir"
        )
    given = {"passes.mode": None if cfg.passes.mode == "auto" else cfg.passes.mode, "passes.batch": cfg.passes.batch}
    was = {f"passes.{name}": value for name, value in known.items() if given.get(f"passes.{name}") is not None}
    if given["passes.mode"] in known.get("refused", {}):
        del was["passes.mode"]  # it was requested, and eager replaced it
    if changed := differences(was, {name: given[name] for name in was}):
        raise UserError(f"run folder {cfg.run_dir} has another config ({changed}): restore it, or change run_dir")
    if "threads" in known:
        torch.set_num_threads(known["threads"])


def train_ids(
    cfg: DictConfig, dataset: Dataset, explainers: Mapping[str, Explainer], explained: Sequence[str]
) -> list[str]:
    """The training images, where an explainer needs any; none of them may be explained."""
    names, split = [name for name, made in explainers.items() if isinstance(made, Preparable)], cfg.prepare.split
    if not names:
        return []
    why = f"{', '.join(names)} must be prepared from training images (prepare.split={split})"
    if split != "all" and split not in set(dataset.index["split"]):
        raise UserError(f"{why}, of which {dataset.name} has none: leave out these explainers, or choose another split")
    chosen = image_ids(dataset, split)
    if both := len({*chosen} & {*explained}):
        raise UserError(f"{why}, but {both} of them would be explained (split={cfg.split}): keep the two apart")
    return chosen


def prepare_explainers(
    cfg: DictConfig,
    dataset: Dataset,
    model: SimilarityModel,
    explainers: Mapping[str, Explainer],
    training: Sequence[str],
) -> Mapping[str, Explainer]:
    """The explainers; those that need training images are prepared with them, or read from the cache."""
    if not training:
        return explainers
    made = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("dataset", "model")}
    source = {**made, "weights": weights_hash(model), "split": split_hash(dataset.index), "images": training}
    return build(cfg.prepare)(
        model, explainers, lambda: Bank.of_dataset(model, dataset, training, cfg.batch_size), source
    )


def select_supported(
    unsupported: str, model: SimilarityModel, target: Target, explainers: Mapping[str, Explainer], pair: PairBatch
) -> tuple[Mapping[str, Explainer], dict[str, Cost], dict[str, str]]:
    """Try each explainer on one pair: those that support model and target, their costs, and why the others do not.

    UserError if one does not and unsupported=refuse.
    """
    costs, why = try_explainers(explainers, model, target, pair)
    for name, reason in why.items():
        if unsupported == "refuse":
            raise UserError(f"{name}: {reason} (unsupported=skip continues with the others)")
        print(f"unsupported: {name}: {reason}")
    if len(why) == len(explainers):
        raise UserError(NOT_ONE)
    return {name: made for name, made in explainers.items() if name not in why}, costs, why


def choose_passes(
    calibrate: Calibration,
    model: SimilarityModel,
    metrics: Mapping[str, Metric],
    explainers: Mapping[str, Explainer],
    images: Images,
    pairs: int,
    keep_maps: bool,
) -> Passes:
    """Choose the mode of forward passes by calibration on some queries, for a run of `pairs` pairs, and print it."""
    images = images.to(model.device)
    own = own_passes(explainers.values(), model.encode(images[:1]), keep_maps)
    work = count_passes(metrics.values(), len(explainers), pairs, images[0, 0].numel(), own)
    passes = calibrate(model, model.similarity.matrix, images, work)
    print(describe_passes(passes))
    return passes


def read_labels(dataset: Dataset, image_ids: Sequence[str]) -> Tensor:
    """Class labels of images by id, (items,)."""
    return torch.tensor(dataset.index.loc[list(image_ids), "label"].to_numpy())


def write_images(store: RunStore, dataset: Dataset, image_ids: Iterable[str]) -> None:
    """Write the images as the model saw them, for the report's gallery."""
    for image_id in dict.fromkeys(image_ids):
        pixels = dataset.sample(image_id).image.permute(1, 2, 0)
        store.write_image(image_id, (pixels * 255).round().byte().numpy())


def write_supports(store: RunStore, dataset: Dataset, pairs: pd.DataFrame) -> None:
    """Write the supports of each prototype beside each other, under its name, for the report's gallery."""
    for name, own in dict(zip(pairs["reference_id"], pairs[SUPPORTS], strict=True)).items():
        images = [dataset.sample(image_id).image for image_id in own]
        grid = make_grid(images, nrow=math.ceil(math.sqrt(len(images))), padding=0, pad_value=1.0)
        store.write_image(name, (grid.permute(1, 2, 0) * 255).round().byte().numpy())


def write_vectors(store: RunStore, pairs: pd.DataFrame) -> None:
    """Write a picture of each vector under its name, for the report's gallery: a grey tile for each dimension."""
    for name, vector in dict(zip(pairs["reference_id"], pairs[VECTOR], strict=True)).items():
        values = np.asarray(list(vector))
        side = math.ceil(math.sqrt(len(values)))
        tiles = np.zeros(side * side)
        tiles[: len(values)] = values / np.abs(values).max()
        grey = ((tiles.reshape(side, side) + 1) * 127.5).round().astype(np.uint8)
        store.write_image(name, np.kron(grey, np.ones((8, 8), dtype=np.uint8))[..., None].repeat(3, axis=-1))


def describe_passes(passes: Passes) -> str:
    """The mode of forward passes in one line."""
    facts = passes.facts
    mode, rates = facts["mode"], facts["images_per_second"]
    others = ", ".join(f"{name} {found}" for name, found in rates.items() if name != mode)
    line = f"passes: {mode}, batch {facts['batch']}, {rates[mode]} images a second" + (f" ({others})" if others else "")
    if mode in facts["score_differences"]:
        line += f"; scores differ by at most {facts['score_differences'][mode]:.0e} from float32 eager"
    return "\n".join([line, *(f"passes: {name} is not used: {why}" for name, why in facts["refused"].items())])


def group_by_need(silent: Iterable[str], metrics: Mapping[str, Metric]) -> dict[str, list[str]]:
    """The metrics without records, by the data that they need."""
    found: dict[str, list[str]] = {}
    for name in silent:
        found.setdefault(", ".join(list_needs(metrics[name])) or "a method for changed inputs", []).append(name)
    return found
