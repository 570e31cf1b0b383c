"""Explainers that need training images: the images, the tensors that are computed from them, and their cache."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.provenance import Config, config_hash
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import Gallery
from sfam_bench.core.stream import prefetch, progress, split_chunks
from sfam_bench.core.types import Images, RawMaps
from sfam_bench.datasets.base import Dataset
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.checkpoint import read_state, write_weights, written_digest
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.recall import Labels, embed

VERSION = 2  # of the states and their files; raise it when either changes, so that old caches are not read

State: TypeAlias = Mapping[str, Tensor]
Axes: TypeAlias = Mapping[str, tuple[str, ...]]  # name of a tensor: names of its axes
Loader: TypeAlias = Callable[[Sequence[str]], Images]


@dataclass(frozen=True, eq=False)
class Bank:
    """Training images: the embeddings and labels of all, on the CPU, and a loader of images by id."""

    embeddings: Gallery
    labels: Labels
    image_ids: tuple[str, ...]
    load: Loader
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.labels) == len(self.image_ids) > 0:
            raise UserError(
                f"a bank of {len(self.embeddings)} embeddings, {len(self.labels)} labels and {len(self.image_ids)} ids:"
                " give one of each for every training image, and at least one image"
            )

    @classmethod
    def of(cls, model: SimilarityModel, images: Images, labels: Labels, batch_size: int = 32) -> "Bank":
        """A bank of images in memory; their ids are their numbers."""
        embeddings = [model.encode(batch).embeddings.cpu() for batch in images.split(batch_size)]

        def load(image_ids: Sequence[str]) -> Images:
            return images[[int(image_id) for image_id in image_ids]]

        return cls(torch.cat(embeddings), labels.cpu(), tuple(map(str, range(len(images)))), load, batch_size)

    @classmethod
    def of_dataset(
        cls, model: SimilarityModel, dataset: Dataset, image_ids: Sequence[str], batch_size: int = 32
    ) -> "Bank":
        """A bank of images of a data set, embedded here."""

        def load(some: Sequence[str]) -> Images:
            return torch.stack([dataset.sample(image_id).image for image_id in some])

        labels = torch.tensor(dataset.index.loc[list(image_ids), "label"].to_numpy())
        return cls(embed(model, dataset, image_ids, batch_size), labels, tuple(image_ids), load, batch_size)

    def batches(self, positions: Sequence[int]) -> Iterator[tuple[list[int], Images]]:
        """The images at some positions, a batch at a time, loaded in the background."""
        chunks = list(split_chunks(positions, self.batch_size))
        ids = [[self.image_ids[position] for position in chunk] for chunk in chunks]
        stream = progress(prefetch(self.load, ids), "prepare", len(chunks), "batch")
        return zip(chunks, stream, strict=True)


class Preparable(Checked, ABC):
    """An explainer that needs training images; called without them it raises UserError.

    axes: the tensors that it keeps of them, and the axes of each; "dims" are those of the embeddings, "channels"
        those of the activations.
    """

    axes: ClassVar[Axes]

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        raise UserError(
            f"{type(self).__name__} needs training images: evaluate prepares it from the training split; "
            "in Python: method.prepare(model, bank)"
        )

    @abstractmethod
    def compute_state(self, model: SimilarityModel, bank: Bank) -> State:
        """Compute the tensors that the method keeps of the training images."""

    @abstractmethod
    def maps(self, model: SimilarityModel, encoded: Encoded, state: State) -> RawMaps:
        """Explain a batch of pairs with these tensors."""

    def prepare(self, model: SimilarityModel, bank: Bank) -> "Prepared":
        """The explainer with the state of these training images."""
        return Prepared(self, self.compute_state(model, bank))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preparable explainer with its state."""

    method: Preparable
    state: State = field(repr=False)

    def __post_init__(self) -> None:
        check_state(self.method, self.state)

    @property
    def facts(self) -> dict[str, int]:
        """The number of rows of each tensor."""
        return {name: len(tensor) for name, tensor in self.state.items()}

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        check_state(self.method, self.state, dims=query.embeddings.shape[1], channels=query.activations.shape[1])
        return self.method.maps(
            model, encoded, {name: value.to(query.images.device) for name, value in self.state.items()}
        )


def check_state(method: Preparable, state: State, **sizes: int) -> None:
    """Raise UserError where a state does not have the method's tensors, or their axes are not of these sizes."""
    fits = state.keys() == method.axes.keys()
    for name, axes in method.axes.items():
        shape = tuple(state[name].shape) if fits else ()
        fits = fits and len(shape) == len(axes)
        fits = fits and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True))
    if not fits:
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        raise UserError(
            f"{type(method).__name__} expects the tensors {dict(method.axes)} with {sizes}, but was given {found}: "
            "prepare it with this model"
        )


@dataclass(frozen=True)
class Preparation:
    """Prepares the explainers that need training images.

    split: of the training images; none of them may be explained.
    cache: the folder of the states, by model, images and settings; null computes them in every run.
    """

    split: str = "train"
    cache: str | None = None

    def __call__(
        self,
        model: SimilarityModel,
        explainers: Mapping[str, Explainer],
        bank: Callable[[], Bank],
        source: Config,
    ) -> dict[str, Explainer]:
        """All explainers, prepared; `source` identifies weights and images, `bank` is called only if it is needed."""
        once = cache(bank)
        return {
            name: self._prepare(method, model, once, source) if isinstance(method, Preparable) else method
            for name, method in explainers.items()
        }

    def _prepare(
        self, method: Preparable, model: SimilarityModel, bank: Callable[[], Bank], source: Config
    ) -> Prepared:
        key = config_hash({"source": source, "method": repr(method), "version": VERSION})
        path = Path(self.cache) / f"{type(method).__name__}-{key}.safetensors" if self.cache else None
        known = read_cache(path, method) if path else None
        state = method.compute_state(model, bank()) if known is None else known
        if path and known is None:
            write_cache(path, state)
        return Prepared(method, {name: tensor.to(model.device) for name, tensor in state.items()})


def read_cache(path: Path, method: Preparable) -> State | None:
    """The state in a file; None where the file is absent, is damaged or does not fit the method."""
    try:
        path = path.expanduser()
        state = read_state(path)
        check_state(method, state)
        return state if written_digest(path) else None
    except (OSError, RuntimeError, UserError):
        return None


def write_cache(path: Path, state: State) -> None:
    """Write a state for later runs; without an error where the folder cannot be written or the disk is full."""
    with suppress(OSError, RuntimeError, UserError):
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights({name: tensor.cpu().contiguous() for name, tensor in state.items()}, path)
