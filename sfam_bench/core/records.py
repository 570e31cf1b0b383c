"""What flows: samples become pair batches, pair batches become records."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import UserError
from sfam_bench.core.types import Activations, Embeddings, Image, Images, Keypoints, KeypointsBatch, Mask, Masks

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sample:
    """One image after its transform, with the geometry that rode along."""

    image: Image
    masks: dict[str, Mask] = field(default_factory=dict)  # "foreground", "box"; planted: also "part/<name>"
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class PairBatch:
    """Pairs to explain, all of one kind.

    `masks` are regions of the query: foreground, box, shared, unshared; `keypoints` and `reference_keypoints` the parts
    of either image; `others` further references of the same query by role (same_class, other_class), as images, NaN
    where a pair has none.
    """

    query_ids: tuple[str, ...]
    reference_ids: tuple[str, ...]
    query: Images
    reference: Images
    negative_ids: tuple[str, ...] | None = None
    negative: Images | None = None
    masks: dict[str, Masks] = field(default_factory=dict)
    keypoints: KeypointsBatch | None = None
    reference_keypoints: KeypointsBatch | None = None
    others: dict[str, Images] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query_ids)

    def has(self, need: str) -> bool:
        """Whether every pair has it: a region of the query, "keypoints" of both images, a "negative", another role."""
        if need == "keypoints":
            return self.keypoints is not None and self.reference_keypoints is not None
        return need in self.masks or need in self.others or (need == "negative" and self.negative is not None)


@dataclass(frozen=True)
class Side:
    """One image of each pair, encoded once for every explainer and metric."""

    images: Images
    activations: Activations
    embeddings: Embeddings


@dataclass(frozen=True)
class Term:
    """One signed comparison of a target: +1 for the image to be near, -1 for the one to be far from."""

    sign: float
    side: Side


@runtime_checkable
class Passes(Protocol):
    """A way to take forward passes, `batch` at once: the outputs of each series of inputs under its key, in order."""

    @property
    def batch(self) -> int:
        """How many inputs one pass takes."""
        ...

    def __call__(self, asked: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, Tensor]]:
        """The outputs of series (`engine.series.Series`), each with the key that came with it."""
        ...


@dataclass(frozen=True)
class Encoded:
    """The query and what it is compared with; the target is sum_terms sign * similarity(query, term).

    `passes` take the forward passes of other images in the query's place; `kept` is what one explainer leaves for
    another that would take the same passes.
    """

    query: Side
    terms: tuple[Term, ...]
    passes: Passes
    kept: Cache = field(default_factory=Cache, compare=False, repr=False)


@dataclass(frozen=True)
class Record:
    """One row of the long frame: the value of one metric for one explainer on one pair; `flag` says why it is NaN."""

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
    """The raw score of one pair along a walk, for one explainer: `fraction` of the pixels changed, `score` there."""

    explainer: str
    curve: str
    query_id: str
    reference_id: str
    fraction: list[float]
    score: list[float]


def pair_seed(seed: int, query_id: str, reference_id: str, *more: str) -> int:
    """A 63-bit seed that hangs on the pair, and on what else is named, alone."""
    digest = hashlib.sha256("\t".join((str(seed), query_id, reference_id, *more)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


PAIR = "pair"  # stands for the explainer where a value belongs to the pair itself
FACT = re.compile(r"s_full|s_headless|s_base_.*")  # the values that do


def check_names(explainers: Iterable[str], metrics: Iterable[str]) -> None:
    """Raise UserError where explainers or metrics have names that records and files could not keep apart."""
    for what, names in (("explainer", explainers), ("metric", metrics)):
        for name in names:
            if not name.strip() or name != name.strip() or re.search(r"[/\\\x00-\x1f\x7f]", name):
                why = (
                    "has a name that is empty, or begins or ends with a blank, or holds a slash or a control character"
                )
            elif name == PAIR if what == "explainer" else FACT.fullmatch(name):
                why = "has a name that stands for values of the pair itself"
            else:
                continue
            raise UserError(f"the {what} {name!r} {why}: choose another")
