"""What several scripts build alike from the config."""

from collections.abc import Iterable, Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments.settings import build
from sfam_bench.datasets.base import Dataset
from sfam_bench.engine.memory import keep_memory
from sfam_bench.engine.passes import Passes
from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.store import RunStore


def dataset_and_model(cfg: DictConfig) -> tuple[Dataset, SimilarityModel]:
    """The data set, and the model on its device; seeded, so that untrained weights repeat."""
    if cfg.keep_memory:
        keep_memory()
    dataset = build(cfg.dataset)
    torch.manual_seed(cfg.seed)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # channels_last is the faster layout for convolutions, a third and more on CPUs
    model = build(cfg.model).to(memory_format=torch.channels_last)
    try:
        return dataset, model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is unknown, or not there
        raise UserError(f"device={device} cannot be used here; leave it null, or choose cpu or cuda") from error


def image_ids(dataset: Dataset, split: str) -> list[str]:
    """The images of a split, in the order of the index."""
    index = dataset.index
    if split != "all" and split not in set(index["split"]):
        raise UserError(
            f"{dataset.name} has no split '{split}': choose {', '.join(sorted(set(index['split'])))} or all"
        )
    return [str(image_id) for image_id in (index.index if split == "all" else index.index[index["split"] == split])]


def labels(dataset: Dataset, image_ids: Sequence[str]) -> Tensor:
    """Class labels of images by id, (items,)."""
    return torch.tensor(dataset.index.loc[list(image_ids), "label"].to_numpy())


def keep_pictures(store: RunStore, dataset: Dataset, image_ids: Iterable[str]) -> None:
    """Write the images as the model saw them, for the report's gallery."""
    for image_id in dict.fromkeys(image_ids):
        pixels = dataset.sample(image_id).image.permute(1, 2, 0)
        store.write_image(image_id, (pixels * 255).round().byte().numpy())


def described(passes: Passes) -> str:
    """How forward passes are taken, in one line."""
    facts = passes.facts
    mode, rates = facts["mode"], facts["images_per_second"]
    others = ", ".join(f"{name} {found}" for name, found in rates.items() if name != mode)
    line = f"passes: {mode}, batch {facts['batch']}, {rates[mode]} images a second" + (f" ({others})" if others else "")
    if mode in facts["score_differences"]:
        line += f"; scores differ by at most {facts['score_differences'][mode]:.0e} from float32 eager"
    return "\n".join([line, *(f"passes: {name} is not used: {why}" for name, why in facts["refused"].items())])
