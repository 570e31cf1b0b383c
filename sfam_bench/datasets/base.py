"""What a data set is to the rest of the benchmark: an index and samples."""

import hashlib
from typing import Protocol, runtime_checkable

import pandas as pd
import PIL.Image

from sfam_bench.records import Sample
from sfam_bench.types import Mask


@runtime_checkable
class Dataset(Protocol):
    """An index (one row an image) and the samples behind it.

    `index` has the unique string index `image_id` and the columns `label` (int), `class_name` (str) and
    `split` ("train" or "test"); folder data sets add `path`, `box` and `keypoints`.
    """

    name: str
    split_name: str
    index: pd.DataFrame

    def image(self, image_id: str) -> PIL.Image.Image:
        """Open one image, untransformed."""
        ...

    def sample(self, image_id: str) -> Sample:
        """Load and transform one image."""
        ...

    def regions(self, query_id: str, reference_id: str, sample: Sample) -> dict[str, Mask]:
        """Name the regions of the query's sample that matter for this pair: foreground, box, shared, unshared."""
        ...


def split_hash(index: pd.DataFrame) -> str:
    """Digest which image is in which split under which label, so that results of different splits never mix."""
    columns = zip(index.index, index["label"], index["split"], strict=True)
    rows = sorted("\t".join(map(str, row)) for row in columns)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
