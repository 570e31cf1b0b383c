"""Training images in a reproducible order: a function of the seed and the step, whichever process loads them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import pair_seed
from sfam_bench.core.stream import progress, split_chunks
from sfam_bench.core.types import Image
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.training.recipe import Recipe

Load = Callable[[str], Image]
Draw = tuple[int, int]  # index of an image, and the number of images drawn before it
AT_ONCE = 32  # images per pass through the trunk
LARGEST_CACHE = 2**33  # bytes of activations


@dataclass(frozen=True, eq=False)
class Examples:
    """Ids and classes of training images; `load` loads one and may use torch's random generator."""

    ids: Sequence[str]
    labels: Sequence[int]
    load: Load

    def number_classes(self, recipe: Recipe) -> list[int]:
        """Return classes numbered from 0, shuffled if the recipe says so; UserError if a batch cannot be filled."""
        classes = {label: number for number, label in enumerate(sorted(set(self.labels)))}
        if len(classes) < 2:
            raise UserError(f"training needs two classes, not {len(classes)}: check dataset.split")
        most = min(len(self.labels), len(classes) * recipe.per_class) if recipe.per_class else len(self.labels)
        if recipe.batch_size > most:
            raise UserError(
                f"train.batch_size={recipe.batch_size} is more than {len(self.labels)} images or than train.per_class="
                f"{recipe.per_class} of each of {len(classes)} classes: lower it"
            )
        numbers = [classes[label] for label in self.labels]
        if recipe.episodes and (least := min(Counter(numbers).values())) < recipe.per_class:
            raise UserError(
                f"train.per_class={recipe.per_class} different images of a class make an episode, and one of the "
                f"{len(classes)} training classes has {least}: lower it, with train.batch_size"
            )
        return np.random.default_rng(recipe.seed).permutation(numbers).tolist() if recipe.shuffle_labels else numbers


def draw_image(image_id: str, load: Load, seed: int, draw: int) -> Image:
    """Load an image with an augmentation that depends only on the seed, the image and the draw."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(pair_seed(seed, image_id, str(draw)))
        return load(image_id)


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Augmented images with their classes, by draw."""

    def __init__(self, examples: Examples, numbers: Sequence[int], seed: int) -> None:
        self.examples, self.numbers, self.seed = examples, numbers, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        place, number = draw
        return draw_image(self.examples.ids[place], self.examples.load, self.seed, number), self.numbers[place]


class CachedActivations(Dataset[tuple[Tensor, int]]):
    """Activations of a frozen trunk for `views` views of each image, with their classes, by draw."""

    def __init__(self, model: SimilarityModel, examples: Examples, numbers: Sequence[int], recipe: Recipe) -> None:
        self.numbers, self.views = numbers, recipe.views
        kept: list[Tensor] = []
        count = len(examples.ids) * recipe.views
        bar = progress(None, "activations of the frozen trunk", count, "image")
        for places in split_chunks(range(count), AT_ONCE):
            views = ((examples.ids[place // recipe.views], place % recipe.views) for place in places)
            images = torch.stack([draw_image(image_id, examples.load, recipe.seed, view) for image_id, view in views])
            kept.append(model.encode(images).activations.cpu())
            size = kept[0][0].numel() * kept[0].element_size() * count
            if size > LARGEST_CACHE:
                raise UserError(
                    f"{count} activations of {tuple(kept[0].shape[1:])} take {size / 2**30:.0f} GiB of memory: lower "
                    "train.views, cut later (model.trunk.layer), or set train.part=all"
                )
            bar.update(len(places))
        self.activations = torch.cat(kept)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        place, number = draw
        return self.activations[place * self.views + number % self.views], self.numbers[place]


class Order(Sampler[list[Draw]]):
    """The batches of all epochs from any step, split among processes."""

    def __init__(self, numbers: Sequence[int], recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        if recipe.batch_size % world:
            raise UserError(f"train.batch_size={recipe.batch_size} does not divide among {world} processes: change it")
        self.size, self.share, self.rank = recipe.batch_size, recipe.batch_size // world, rank
        self.count = len(numbers)
        self.per_epoch = recipe.episodes or len(numbers) // recipe.batch_size
        self.per_class, self.seed = recipe.per_class, recipe.seed
        classes = sorted({*numbers}) if recipe.episodes else []
        self.members = [np.flatnonzero(np.equal(numbers, number)) for number in classes]
        self.sampler: MPerClassSampler | None = None
        if recipe.per_class and not recipe.episodes:
            self.sampler = MPerClassSampler(numbers, recipe.per_class, recipe.batch_size, len(numbers))
        self.random = np.random.RandomState(recipe.seed)
        self.step = 0  # of the next batch
        self.epoch = 0  # drawn next

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, start = divmod(self.step, self.per_epoch)
        order = self._draw_episodes(epoch) if self.members else self._draw_until(epoch)
        for batch in range(start, self.per_epoch):
            first = batch * self.size + self.rank * self.share
            before = epoch * self.per_epoch * self.size
            yield [(order[place], before + place) for place in range(first, first + self.share)]

    def _draw_until(self, epoch: int) -> list[int]:
        while self.epoch <= epoch:
            order = self._draw()
        return order

    def _draw(self) -> list[int]:
        self.epoch += 1
        if self.sampler is None:
            return self.random.permutation(self.count).tolist()
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self.random.get_state())  # noqa: NPY002
        order = [index(place) for place in self.sampler]
        self.random.set_state(np.random.get_state())  # noqa: NPY002
        np.random.set_state(outside)  # noqa: NPY002
        return order

    def _draw_episodes(self, epoch: int) -> list[int]:
        """The images of the episodes of an epoch, class by class; an episode depends on its step alone."""
        order: list[int] = []
        for step in range(epoch * self.per_epoch, (epoch + 1) * self.per_epoch):
            random = np.random.default_rng([self.seed, step])
            for k in random.choice(len(self.members), self.size // self.per_class, replace=False):
                order += random.choice(self.members[k], self.per_class, replace=False).tolist()
        return order


def seed_generators(number: int) -> None:
    """Seed torch and numpy's global generator, which some losses use."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
