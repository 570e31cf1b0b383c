"""The interface of a data set: an index and samples."""

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import PIL.Image

from sfam_bench.core.records import Sample
from sfam_bench.core.types import Mask

ROLES = ("is_query", "is_gallery")
CAMERA = "camera"


@runtime_checkable
class Dataset(Protocol):
    """An index, one row per image, and a sample of each.

    `index` has the unique string index `image_id` and the columns `label` (int), `class_name` (str) and `split`
    ("train", "validation" or "test"); folder data sets add `path`, `box` and `keypoints`. The optional boolean columns
    `is_query` and `is_gallery` select the images used as queries, and those searched and used as references. With the
    optional column `camera` (int) images of one class and camera are no answers to each other, as in re-identification.
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
        """Return the regions of the query's sample for this pair: foreground, box, shared, unshared."""
        ...


def roles(index: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are queries and which are searched, two boolean arrays; all rows if the index has no roles."""
    of_query, of_gallery = (
        index[name].to_numpy(dtype=bool) if name in index else np.ones(len(index), dtype=bool) for name in ROLES
    )
    return of_query, of_gallery


def split_hash(index: pd.DataFrame) -> str:
    """Hash split, roles and label of each image, so that results of different splits are never mixed."""
    names = ["label", "split", *(name for name in ROLES if name in index)]
    columns = zip(index.index, *(index[name] for name in names), strict=True)
    rows = sorted("\t".join(map(str, row)) for row in columns)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
