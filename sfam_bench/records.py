"""What flows: samples become pair batches, pair batches become records."""

from dataclasses import dataclass, field

from sfam_bench.types import Activations, Embeddings, Image, Images, Keypoints, Mask, Masks


@dataclass(frozen=True)
class Sample:
    """One image after its transform, with the geometry that rode along."""

    image: Image
    masks: dict[str, Mask] = field(default_factory=dict)  # "foreground"; planted: also "part/<name>"
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class PairBatch:
    """Pairs to explain, all of one kind; `masks` are regions of the query: foreground, shared, unshared."""

    query_ids: tuple[str, ...]
    reference_ids: tuple[str, ...]
    query: Images
    reference: Images
    negative_ids: tuple[str, ...] | None = None
    negative: Images | None = None
    masks: dict[str, Masks] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query_ids)


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


@dataclass(frozen=True)
class Encoded:
    """The query and what it is compared with; the target is sum_terms sign * similarity(query, term)."""

    query: Side
    terms: tuple[Term, ...]


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
