"""Data sets of the package wildlife-datasets (Cermak et al., WACV 2024), of identified animals."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, select_existing
from sfam_bench.datasets.splits import assign_splits

PACKAGE = "wildlife_datasets"
UNKNOWN = "unknown"  # the package's identity of animals that nobody has named


def wildlife(
    dataset: str, root: str | Path, split: str = "zero_shot", geometry: Geometry | None = None, name: str | None = None
) -> ImageFolder:
    """Read a data set of wildlife-datasets by the name of its class, such as GiraffeZebraID; nothing is downloaded.

    Images of unknown animals are left out. Boxes are those of the package (x, y, width, height). In the package each
    class names its terms and address. Raises UserError if the package, its class or the images are missing.
    """
    if find_spec(PACKAGE) is None:
        raise UserError("dataset=wildlife needs the package wildlife-datasets: pip install '.[wildlife]'")
    known: Any = import_module(f"{PACKAGE}.datasets")
    kind = getattr(known, dataset, None)
    if kind is None:
        raise UserError(f"wildlife-datasets has no {dataset!r}: choose a class of {PACKAGE}.datasets")
    root = Path(root).expanduser()
    try:
        table = kind(str(root)).df
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"no {dataset} at {root} ({error}): download it as wildlife-datasets says") from None
    rows = to_rows(table, dataset)
    found = select_existing(Collection(dataset, "", ""), Layout(root, rows))
    sides, split_name = assign_splits(found, split, f"{dataset} at {root}")
    return ImageFolder(name or dataset, root, found.assign(split=sides)[list(COLUMNS)], split_name, geometry)


def to_rows(table: pd.DataFrame, title: str) -> pd.DataFrame:
    """The catalogue of the package (image_id, identity, path, and bbox) as rows of an index; labels count from 0."""
    if absent := [column for column in ("image_id", "identity", "path") if column not in table]:
        raise UserError(f"{title}: the catalogue lacks {', '.join(absent)}: use another release of wildlife-datasets")
    kept = table[table["identity"].astype(str) != UNKNOWN]
    boxes = kept["bbox"] if "bbox" in kept else pd.Series(None, kept.index, dtype=object)
    names = kept["identity"].astype(str)
    rows = pd.DataFrame(
        {
            "path": kept["path"].map(str),
            "class_name": names,
            "label": names.rank(method="dense").astype(int) - 1,
            "box": [None if _is_missing(box) else _corners(box) for box in boxes],
        }
    )
    rows.index = pd.Index(kept["image_id"].astype(str))
    return rows


def _is_missing(box: object) -> bool:
    return box is None or (isinstance(box, float) and box != box)


def _corners(box: Any) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in box)
    return x, y, x + width, y + height
