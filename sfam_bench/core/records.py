"""The data classes passed between packages: samples, pair batches, encoded pairs, records."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import UserError
from sfam_bench.core.references import MEAN, Entries, EntryShares, Given, Prototype, Supports
from sfam_bench.core.types import Activations, Embeddings, Flags, Image, Images, Keypoints, KeypointsBatch, Mask, Masks

Key = TypeVar("Key")

NO_IMAGES = "the reference is a vector, without an image: {} needs the activations of its images"
NOT_ONE_IMAGE = "the reference is not one image, but {}: {} needs a single image"


@dataclass(frozen=True)
class Sample:
    """One transformed image, with its masks and keypoints."""

    image: Image
    masks: dict[str, Mask] = field(default_factory=dict)  # "foreground", "box"; planted: also "part/<name>"
    keypoints: Keypoints | None = None


@runtime_checkable
class Redrawing(Protocol):
    """A data set that draws its images again with parts changed, by which the effect of each part is measured.

    `aspects` are further changes that can be named in place of parts: of one part's colour alone, or of two parts that
    exchange their places. They have no region of their own.
    """

    parts: ClassVar[tuple[str, ...]]
    evidence: ClassVar[tuple[str, ...]]
    aspects: ClassVar[tuple[str, ...]]

    def part_masks(self, image_id: str) -> Masks:
        """The visible pixels of each of `parts`, (parts, rows, cols)."""
        ...

    def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> Image:
        """The image with these parts in the `number`-th of their other appearances, from 0; deterministic."""
        ...


@dataclass(frozen=True)
class PairBatch:
    """Pairs to explain, all of one kind.

    query_ids: ids of the queries in the data set's index.
    reference_ids: ids of the references.
    query: (batch, 3, rows, cols), RGB in [0, 1].
    reference: images of the same shape, one for each query, or `Supports`, or `Vectors`.
    negative_ids: ids of the negatives of triplets.
    negative: given as the reference.
    masks: regions of the query by name (foreground, box, shared, unshared, ...), (batch, rows, cols).
    keypoints: parts of the query, (batch, parts, 3): x, y in px, visible.
    reference_keypoints: parts of the reference.
    others: further references of the same query by role (same_class, other_class), as images; NaN if a pair has none.
    rivals: references of the other classes, each for all queries, for the target `class_score`.
    redraws: the data set, if it draws its images again with parts changed.
    lacking: of a region, or of "keypoints", that only some pairs have: the pairs without it, whose mask is empty.

    Raises:
        UserError: if a query is among its own supports.
    """

    query_ids: tuple[str, ...]
    reference_ids: tuple[str, ...]
    query: Images
    reference: Given
    negative_ids: tuple[str, ...] | None = None
    negative: Given | None = None
    masks: dict[str, Masks] = field(default_factory=dict)
    keypoints: KeypointsBatch | None = None
    reference_keypoints: KeypointsBatch | None = None
    others: dict[str, Images] = field(default_factory=dict)
    rivals: tuple[Given, ...] = ()
    redraws: Redrawing | None = None
    lacking: dict[str, Flags] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for given in (self.reference, self.negative, *self.rivals):
            if isinstance(given, Supports):
                given.check_queries(self.query_ids)

    def __len__(self) -> int:
        return len(self.query_ids)

    @property
    def reference_images(self) -> Images:
        """The one reference image of each query; raises UserError for `Supports` and `Vectors`."""
        if not isinstance(self.reference, Tensor):
            raise UserError(NOT_ONE_IMAGE.format(type(self.reference).__name__.lower(), "this"))
        return self.reference

    def has(self, need: str) -> bool:
        """Whether a pair has `need`: a region of the query, "keypoints", a "negative", a role, or "redraws"."""
        if need == "keypoints":
            return self.keypoints is not None and self.reference_keypoints is not None
        if need == "redraws":
            return self.redraws is not None
        return need in self.masks or need in self.others or (need == "negative" and self.negative is not None)

    def lack(self, needs: Iterable[str]) -> list[bool]:
        """Which pairs lack one of `needs` that others of the batch have."""
        found = [self.lacking[need] for need in needs if need in self.lacking]
        return torch.stack(found).any(dim=0).tolist() if found else [False] * len(self)


@dataclass(frozen=True)
class Side:
    """Images, encoded once for every explainer and metric.

    images: (batch, 3, rows, cols), RGB in [0, 1].
    activations: output of the trunk, (batch, channels, grid rows, grid cols).
    embeddings: output of the embedder, (batch, dims).
    """

    images: Images
    activations: Activations
    embeddings: Embeddings

    def take(self, rows: Entries) -> "Side":
        """These images, in this order."""
        return Side(self.images[rows], self.activations[rows], self.embeddings[rows])


@dataclass(frozen=True)
class Blend:
    """The encoded images of references, and the share of each: a reference is the sum of share * embedding.

    side: the images, (supports, ...).
    pairs: the pair of each entry.
    rows: the image of each entry.
    shares: of each entry.
    how: the rule by which shares were computed.
    """

    side: Side
    pairs: Entries
    rows: Entries
    shares: EntryShares
    how: Prototype = MEAN

    def add(self, values: Tensor, shares: Tensor, count: int) -> Tensor:
        """Sum share * value over the entries of each of `count` pairs; values are (entries, ...)."""
        scaled = values * shares.view(-1, *[1] * (values.ndim - 1))
        return scaled.new_zeros(count, *values.shape[1:]).index_add(0, self.pairs, scaled)


@dataclass(frozen=True)
class Reference:
    """What each query is compared with: an embedding, and the encoded images that it was made of.

    embeddings: (batch, dims).
    blend: the images; None for vectors. One image for each query is the case of one entry with share 1.
    """

    embeddings: Embeddings
    blend: Blend | None = None

    @classmethod
    def of(cls, side: Side) -> "Reference":
        """One image for each query."""
        rows = torch.arange(len(side.embeddings), device=side.embeddings.device)
        return cls(side.embeddings, Blend(side, rows, rows, torch.ones_like(side.embeddings[:, 0])))

    @property
    def is_image(self) -> bool:
        """Whether each query has one image, unscaled, as its reference: given, or chosen from several."""
        blend = self.blend
        if blend is None or len(blend.pairs) != len(self.embeddings):
            return False
        in_order = torch.equal(blend.pairs, torch.arange(len(blend.pairs), device=blend.pairs.device))
        return in_order and bool((blend.shares == 1).all())

    def images_for(self, method: str) -> Blend:
        """The images, for a method that needs them; raises UserError for vectors."""
        if self.blend is None:
            raise UserError(NO_IMAGES.format(method))
        return self.blend

    def side_for(self, method: str) -> Side:
        """The one image of each query, for what needs it; raises UserError for vectors and prototypes."""
        if self.blend is None or not self.is_image:
            found = "a vector" if self.blend is None else "a prototype"
            raise UserError(NOT_ONE_IMAGE.format(found, method))
        side, rows = self.blend.side, self.blend.rows
        whole = torch.arange(len(side.embeddings), device=rows.device)
        return side if torch.equal(rows, whole) else side.take(rows)

    @property
    def images(self) -> Images:
        """The one image of each query."""
        return self.side_for("this").images

    @property
    def activations(self) -> Activations:
        """The activations of the one image of each query."""
        return self.side_for("this").activations


@dataclass(frozen=True)
class Term:
    """One signed comparison of a target.

    sign: +1 for a positive reference, -1 for a negative one.
    side: the reference.
    rivals: references of other classes; with them the term is the softmax of `side` among all, without them the
        similarity itself.
    temperature: of the softmax, in units of the similarity.
    threshold: subtracted from the similarity.
    """

    sign: float
    side: Reference
    rivals: tuple[Reference, ...] = ()
    temperature: float = 1.0
    threshold: float = 0.0

    @property
    def references(self) -> tuple[Reference, ...]:
        """All references that it compares with."""
        return self.side, *self.rivals


@runtime_checkable
class Passes(Protocol):
    """Runs forward passes of `batch` inputs at a time."""

    @property
    def batch(self) -> int:
        """The number of inputs in one pass."""
        ...

    def __call__(self, series: Iterable[tuple[Key, Any]], /) -> Iterator[tuple[Key, Tensor]]:
        """Yield the outputs of each `engine.series.Series` with the key given with it, in order."""
        ...


@dataclass(frozen=True)
class Encoded:
    """The encoded query and its comparisons; the target is the sum of its terms (`core.targets.score`).

    query: the encoded query.
    terms: the signed comparisons: one for a similarity, two for a margin.
    passes: computes forward passes of other images in place of the query.
    kept: results of one explainer that another with the same passes reuses.
    """

    query: Side
    terms: tuple[Term, ...]
    passes: Passes
    kept: Cache = field(default_factory=Cache, compare=False, repr=False)


@dataclass(frozen=True)
class Record:
    """One row of the long frame: the value of a metric for an explainer on a pair; `flag` is the reason for a NaN."""

    dataset: str
    model: str
    target: str
    explainer: str
    metric: str
    query_id: str
    reference_id: str
    value: float
    flag: str = ""


@dataclass(frozen=True)
class Curve:
    """The raw scores of one pair along a walk, for one explainer; `fraction` is the share of pixels changed."""

    explainer: str
    curve: str
    query_id: str
    reference_id: str
    fraction: list[float]
    score: list[float]


def pair_seed(seed: int, query_id: str, reference_id: str, *more: str) -> int:
    """A 63-bit seed that depends only on the arguments."""
    digest = hashlib.sha256("\t".join((str(seed), query_id, reference_id, *more)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


PAIR = "pair"  # in place of an explainer, for values of the pair itself
FACT = re.compile(r"s_full|s_headless|s_base_.*|effect_.*")  # metrics recorded under PAIR


def check_names(explainers: Iterable[str], metrics: Iterable[str]) -> None:
    """Raise UserError if names of explainers or metrics are ambiguous in records or invalid in file names."""
    for what, names in (("explainer", explainers), ("metric", metrics)):
        for name in names:
            if not name.strip() or name != name.strip() or re.search(r"[/\\\x00-\x1f\x7f]", name):
                why = "is empty, begins or ends with a blank, or holds a slash or a control character"
                raise UserError(f"the {what} name {name!r} {why}: choose another")
            if name == PAIR if what == "explainer" else FACT.fullmatch(name):
                raise UserError(f"the {what} name {name!r} is reserved for values of the pair: choose another")
