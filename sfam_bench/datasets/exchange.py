"""Read and write CSV data frames of open-metric-learning.

Columns: label, path, split (train or validation), is_query, is_gallery and, if there are boxes, x_1, x_2, y_1, y_2
in integer pixels; image_id and class_name are additions of this package, optional, and ignored there.
"""

from pathlib import Path, PurePath

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.base import ROLES, roles
from sfam_bench.datasets.decode import Orientation
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, select_existing
from sfam_bench.datasets.tables import parse_flag, parse_natural, parse_number, parse_string, read_csv

CORNERS = ["x_1", "y_1", "x_2", "y_2"]
SIDES = {"train": "train", "validation": "test"}
OPTIONAL = {
    "image_id": parse_string,
    "class_name": parse_string,
    **dict.fromkeys(CORNERS, parse_number),
    **dict.fromkeys(ROLES, parse_flag),
}


def read_oml(
    csv: str | Path,
    root: str | Path,
    geometry: Geometry | None = None,
    orientation: Orientation = "exif",
    background: str = "white",
) -> ImageFolder:
    """Read a CSV of open-metric-learning with paths relative to `root`; without image_id the paths are the ids.

    `orientation` ("exif" or "stored") and `background` are those of `ImageFolder`. is_query and is_gallery select the
    validation images that are queries and that are searched; training images, which lack both, are used as both. Raises
    UserError, with file and line, if the file is absent or malformed.
    """
    csv, root = Path(csv).expanduser(), Path(root).expanduser()
    table = read_csv(csv, {"label": parse_natural, "path": parse_string, "split": _split_role}, optional=OPTIONAL)
    if absent := [name for name in ROLES if name not in table]:
        raise UserError(f"{csv} lacks the columns {', '.join(absent)}: add them as open-metric-learning requires")
    for line, row in table.iterrows():
        for name in (*(ROLES if row.split == "test" else ()), *(name for name in ("image_id",) if name in table)):
            if row[name] is None:
                raise UserError(f"{csv}, line {line}: {name} is empty: fill it in")
    table["path"] = [_relative_path(root, path) for path in table.path]
    if "image_id" not in table:
        table["image_id"] = table.path
    names = table.get("class_name", pd.Series(None, table.index, dtype=object))
    table["class_name"] = names.where(names.notna(), table.label.astype(str))
    table["box"] = _read_boxes(csv, table)
    for name in ROLES:
        table[name] = table[name].where(table.split == "test", True).astype(bool)
    own = [] if table[[*ROLES]].all(axis=None) else [*ROLES]
    index = select_existing(Collection(csv.stem, "", ""), Layout(root, table.set_index("image_id")))[[*COLUMNS, *own]]

    shared = set(index.label[index.split == "train"]) & set(index.label[index.split == "test"])
    split_name = f"{'closed-set' if shared else 'zero-shot'}, of {csv.name}"
    return ImageFolder(csv.stem, root, index, split_name, geometry, orientation=orientation, background=background)


def _split_role(cell: str) -> str:
    if cell not in SIDES:
        raise ValueError(" or ".join(SIDES))
    return SIDES[cell]


def _read_boxes(csv: Path, table: pd.DataFrame) -> pd.Series:
    """The box of each image or None; UserError if a box is incomplete."""
    corners = [name for name in CORNERS if name in table]
    if not corners:
        return pd.Series(None, table.index, dtype=object)
    known = table.reindex(columns=CORNERS).notna()
    if partly := [line for line, row in known.iterrows() if row.any() and not row.all()]:
        raise UserError(f"{csv}, line {partly[0]}: a box needs {', '.join(CORNERS)}: give all four, or none")
    boxes = pd.Series([tuple(row) for row in table[corners].itertuples(index=False)], table.index, dtype=object)
    return boxes.where(known.all(axis=1), None)


def write_oml(dataset: ImageFolder, csv: str | Path) -> None:
    """Write the index of a data set as a CSV of open-metric-learning, without masks and keypoints.

    Test images have the roles of the index; if it has none, all are queries and in the gallery.
    """
    index = dataset.index
    tests = index.split == "test"
    of_query, of_gallery = (pd.Series(role, index.index, dtype="boolean").where(tests) for role in roles(index))
    table = index[["label", "path", "class_name"]].assign(
        split=index.split.map({side: name for name, side in SIDES.items()}),
        is_query=of_query,  # missing for training images
        is_gallery=of_gallery,
    )
    if index.box.notna().any():
        boxes = [box if box is not None else (None,) * 4 for box in index.box]
        table[CORNERS] = pd.DataFrame(boxes, index=index.index, dtype="Float64").round().astype("Int64")
    Path(csv).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(csv)


def _relative_path(root: Path, path: str) -> str:
    """Make absolute paths below root relative, as open-metric-learning allows them; others are refused later."""
    base = root.absolute()
    return str(PurePath(path).relative_to(base)) if PurePath(path).is_relative_to(base) else path
