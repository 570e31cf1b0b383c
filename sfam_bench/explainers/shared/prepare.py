"""Explainers that need training images before they can explain: what they see, what they keep, where it is cached."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic
from sfam_bench.core.provenance import Config, config_hash
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import Gallery
from sfam_bench.core.stream import prefetch, progress, split_chunks
from sfam_bench.core.types import Images, RawMaps
from sfam_bench.datasets.base import Dataset
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.recall import Labels, embed

VERSION = 1  # of what methods compute from training images; raise it when that changes, and caches are computed anew

State: TypeAlias = Mapping[str, Tensor]
Axes: TypeAlias = Mapping[str, tuple[str, ...]]  # name of a tensor: names of its axes
Loader: TypeAlias = Callable[[Sequence[str]], Images]


@dataclass(frozen=True, eq=False)
class Bank:
    """Training images: embeddings and labels of all, on the CPU; pixels by id, `batch_size` at a time."""

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
        """The images at some positions, a batch at a time, loaded ahead of their use."""
        chunks = list(split_chunks(positions, self.batch_size))
        ids = [[self.image_ids[position] for position in chunk] for chunk in chunks]
        stream = progress(prefetch(self.load, ids), "prepare", len(chunks), "batch")
        return zip(chunks, stream, strict=True)


@runtime_checkable
class Preparable(Explainer, Protocol):
    """An explainer that needs training images; called without them it raises UserError.

    axes: the tensors that it keeps of them, and the axes of each; "dims" are those of the embeddings, "channels"
        those of the activations.
    """

    axes: ClassVar[Axes]

    def prepared(self, model: SimilarityModel, bank: Bank) -> State:
        """Compute what is kept of the training images."""
        ...

    def with_state(self, state: State) -> "Prepared":
        """The explainer, ready, with what was kept."""
        ...

    def prepare(self, model: SimilarityModel, bank: Bank) -> "Prepared":
        """Both at once."""
        ...

    def maps(self, model: SimilarityModel, encoded: Encoded, state: State) -> RawMaps:
        """Explain a batch of pairs with what was kept."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """An explainer that is ready: the method, and what it keeps of the training images."""

    method: Preparable
    state: State = field(repr=False)

    def __post_init__(self) -> None:
        check_state(self.method, self.state)

    @property
    def facts(self) -> dict[str, int]:
        """How many rows of each kind are kept."""
        return {name: len(tensor) for name, tensor in self.state.items()}

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        check_state(self.method, self.state, dims=query.embeddings.shape[1], channels=query.activations.shape[1])
        return self.method.maps(
            model, encoded, {name: value.to(query.images.device) for name, value in self.state.items()}
        )


def unprepared_error(method: Preparable) -> UserError:
    """The error of a call without training images."""
    return UserError(
        f"{type(method).__name__} needs training images: evaluate prepares it from the training split; "
        "in Python: method.prepare(model, bank)"
    )


def check_state(method: Preparable, state: State, **sizes: int) -> None:
    """Raise UserError where a state is not what the method keeps, for axes of these sizes."""
    fits = state.keys() == method.axes.keys()
    for name, axes in method.axes.items():
        shape = tuple(state[name].shape) if fits else ()
        fits = fits and len(shape) == len(axes)
        fits = fits and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True))
    if not fits:
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        raise UserError(
            f"{type(method).__name__} keeps {dict(method.axes)}, with {sizes}, but was given {found}: "
            "prepare it with this model"
        )


@dataclass(frozen=True)
class Preparation:
    """Makes those explainers ready that need training images.

    split: whose images; none of them may be among those that are explained.
    cache: the folder in which what was computed is kept, by model, images and settings; null computes it every time.
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
        """All explainers, ready; `source` is what weights and images hang on, `bank` is made only if it is needed."""
        once = cache(bank)
        return {
            name: self._ready(method, model, once, source) if isinstance(method, Preparable) else method
            for name, method in explainers.items()
        }

    def _ready(self, method: Preparable, model: SimilarityModel, bank: Callable[[], Bank], source: Config) -> Prepared:
        key = config_hash({"source": source, "method": repr(method), "version": VERSION})
        path = Path(self.cache) / f"{type(method).__name__}-{key}.safetensors" if self.cache else None
        known = read_cache(path, method) if path else None
        state = method.prepared(model, bank()) if known is None else known
        if path and known is None:
            write_cache(path, state)
        return method.with_state({name: tensor.to(model.device) for name, tensor in state.items()})


def read_cache(path: Path, method: Preparable) -> State | None:
    """What was kept in a file, or None where there is none, it is damaged, or it does not fit the method."""
    try:
        with safe_open(path.expanduser(), "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            written = (file.metadata() or {}).get("digest")
        check_state(method, state)
    except (OSError, SafetensorError, RuntimeError, ValueError, UserError):
        return None  # it is only a memory: compute again
    return state if written == digest(state) else None


def write_cache(path: Path, state: State) -> None:
    """Keep a state for the next run, where it can be written."""
    with suppress(OSError, SafetensorError, RuntimeError):  # no right to write, no space, or no home
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in state.items()},
                temporary,
                {"digest": digest(state)},
            )


def digest(state: State) -> str:
    """A hash of all tensors, since the format of the file has no checksum."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
