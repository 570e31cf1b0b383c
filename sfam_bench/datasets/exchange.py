"""Data frames of open-metric-learning: CSV files that its users have, read and written.

Columns: label, path, split (train or validation), is_query, is_gallery and, if there are boxes, x_1, x_2, y_1, y_2
in whole pixels; image_id and class_name are ours, optional, and ignored there.
"""

from pathlib import Path, PurePath

import pandas as pd

from sfam_bench.datasets.decode import Orientation
from sfam_bench.datasets.folder import COLUMNS, Collection, Found, ImageFolder, keep, one_line
from sfam_bench.datasets.geometry import STANDARD, Geometry
from sfam_bench.errors import UserError

REQUIRED = ["label", "path", "split", "is_query", "is_gallery"]
CORNERS = ["x_1", "y_1", "x_2", "y_2"]
SIDES = {"train": "train", "validation": "test"}


def read_oml(
    csv: str | Path,
    root: str | Path,
    geometry: Geometry = STANDARD,
    orientation: Orientation = "exif",
    background: str = "white",
) -> ImageFolder:
    """Read such a CSV whose paths start at `root`; without image_id the paths are the ids.

    `orientation` ("exif" or "stored") and `background` of the photos are those of `ImageFolder`.
    Raises UserError where the file is absent or malformed.
    """
    csv, root = Path(csv).expanduser(), Path(root).expanduser()
    try:
        table = pd.read_csv(csv, dtype={"label": int, "path": str, "split": str, "image_id": str, "class_name": str})
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {csv} ({one_line(error)}): expected a CSV with columns {', '.join(REQUIRED)}"
        ) from None
    if absent := [column for column in REQUIRED if column not in table]:
        raise UserError(f"{csv} lacks the columns {', '.join(absent)}: add them as open-metric-learning asks")
    if not table.split.isin(list(SIDES)).all():
        raise UserError(f"{csv} has splits other than {' and '.join(SIDES)}: rename them")

    table["path"] = [_below(root, path) for path in table.path]
    if "image_id" not in table:
        table["image_id"] = table.path
    if "class_name" not in table:
        table["class_name"] = table.label.astype(str)
    if set(CORNERS) <= set(table):
        boxes = table[CORNERS].astype(float)
        corners = list(boxes.itertuples(index=False, name=None))
        table["box"] = pd.Series(corners, dtype=object).where(boxes.notna().all(axis=1), None)
    rows = table.drop(columns=["is_query", "is_gallery", "split"]).set_index("image_id")
    rows["split"] = table.split.map(SIDES).to_numpy()
    index = keep(Collection(csv.stem, "", ""), Found(root, rows))[list(COLUMNS)]

    shared = set(index.label[index.split == "train"]) & set(index.label[index.split == "test"])
    split_name = f"{'closed-set' if shared else 'zero-shot'}, of {csv.name}"
    return ImageFolder(csv.stem, root, index, split_name, geometry, orientation=orientation, background=background)


def write_oml(dataset: ImageFolder, csv: str | Path) -> None:
    """Write the index of a data set as such a CSV: every test image is a query and in the gallery, and itself left out.

    Masks and keypoints have no place in the format and are not written.
    """
    index = dataset.index
    tests = (index.split == "test").astype("boolean")
    table = index[["label", "path", "class_name"]].assign(
        split=index.split.map({ours: theirs for theirs, ours in SIDES.items()}),
        is_query=tests.where(tests),  # neither true nor false for training images
        is_gallery=tests.where(tests),
    )
    if index.box.notna().any():
        boxes = [box if box is not None else (None,) * 4 for box in index.box]
        table[CORNERS] = pd.DataFrame(boxes, index=index.index, dtype="Float64").round().astype("Int64")
    Path(csv).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(csv)


def _below(root: Path, path: str) -> str:
    """Allow the full paths that open-metric-learning allows, if they lie below root; the others are refused later."""
    pure = PurePath(path)
    return str(pure.relative_to(root.absolute())) if pure.is_relative_to(root.absolute()) else path
