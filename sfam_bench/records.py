"""What flows: samples become pair batches, pair batches become records."""

from dataclasses import dataclass, field

from sfam_bench.types import Image, Images, Keypoints, Mask, Masks


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
