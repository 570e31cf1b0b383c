"""Data sets of a user's own images: a folder, or a CSV in the format of open-metric-learning with further columns."""

import csv as csv_format
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import pandas as pd
import PIL.Image

from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.files import check_regular
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.base import ROLES
from sfam_bench.datasets.decode import Orientation
from sfam_bench.datasets.folder import (
    COLUMNS,
    IMAGES,
    Collection,
    ImageFolder,
    Layout,
    class_folders,
    is_image,
    select_existing,
)
from sfam_bench.datasets.splits import assign_splits
from sfam_bench.datasets.tables import parse_flag, parse_number, parse_string, read_csv, read_lines

CORNERS = ["x_1", "y_1", "x_2", "y_2"]
SIDES = ("train", "validation", "test")
PART = re.compile(r"part_(.+)_(x|y|visible)")
OPTIONAL = {
    **dict.fromkeys(("label", "image_id", "class_name", "mask"), parse_string),
    **dict.fromkeys(CORNERS, parse_number),
    **dict.fromkeys(ROLES, parse_flag),
}

log = logging.getLogger(__name__)


def from_folder(
    root: str | Path,
    split: str = "none",
    geometry: Geometry | None = None,
    name: str | None = None,
    boxes: str | Path | None = None,
    orientation: Orientation = "exif",
    background: str = "white",
) -> ImageFolder:
    """Read class folders, or the images of a folder without class folders, which are unlabelled.

    The ids are the paths below `root`. Unlabelled images have one class each, named as the image.

    split: none (all are test images), zero_shot (halves of the classes) or few_shot (`splits.assign_splits`).
    name: of the data set in tables; None for the name of the folder.
    boxes: a COCO file (`read_coco_boxes`).

    Raises UserError if there are no images.
    """
    root = Path(root).expanduser()
    files, loose = class_folders(root), _loose_images(root)
    used = [*(files.class_folder + "/" + files.file)] or loose
    unused, types = _unused(root, used), ", ".join(sorted(IMAGES))
    example = f", such as {unused[0]}" if unused else ""
    if not used:
        raise UserError(f"no images in {root} or in class folders there ({types}){example}: set dataset.root")
    if unused:
        where = "in class folders" if len(files) else "in the folder itself"
        log.warning("%s: %d pictures are not used%s: only those %s, as %s", root, len(unused), example, where, types)
    title = name or root.resolve().name
    if files.empty:
        rows = pd.DataFrame({"path": loose, "label": range(len(loose)), "class_name": loose})
    else:
        labels = pd.factorize(files.class_folder)[0]  # sorted already
        rows = pd.DataFrame({"path": used, "label": labels, "class_name": files.class_folder})
    rows = rows.set_index(rows.path.rename("image_id"))
    sides, split_name = assign_splits(rows, split, f"{title} at {root}")
    rows["split"], rows["box"] = sides, read_coco_boxes(boxes, rows.path) if boxes else None
    if files.empty:
        split_name = f"unlabelled, {split_name}"
    index = select_existing(Collection(title, "", "", orientation=orientation), Layout(root, rows))[[*COLUMNS]]
    return ImageFolder(title, root, index, split_name, geometry, orientation=orientation, background=background)


def from_csv(
    csv: str | Path,
    root: str | Path,
    geometry: Geometry | None = None,
    name: str | None = None,
    boxes: str | Path | None = None,
    orientation: Orientation = "exif",
    background: str = "white",
) -> ImageFolder:
    """Read a CSV of images, as open-metric-learning writes it or with fewer or more columns.

    path: below `root`. All other columns are optional.
    label: any text, or integers, which are kept as class ids; without it the images are unlabelled, one class each.
    split: train, validation or test; validation means test where no row is test. Without it all are test images.
    is_query, is_gallery: which test images are queries and which are searched; all, without these columns.
    x_1, y_1, x_2, y_2: the box in pixels; or `boxes`, a COCO file (`read_coco_boxes`).
    mask: the path of a mask below `root`.
    part_NAME_x, part_NAME_y, part_NAME_visible: keypoints in pixels; without a value, or not visible: absent.
    image_id, class_name: by default the path and the label.

    Raises UserError, with file and line, if the file is absent or malformed.
    """
    csv, root = Path(csv).expanduser(), Path(root).expanduser()
    parts = _part_columns(csv)
    optional = {**OPTIONAL, "split": _parse_side, **dict.fromkeys(parts, parse_number)}
    optional |= {column: parse_flag for column in parts if column.endswith("_visible")}
    table = read_csv(csv, {"path": parse_string}, optional=optional)
    _check_roles(csv, table)
    table["path"] = [_relative_path(root, path) for path in table.path]
    table["image_id"] = table.get("image_id", table.path)
    table["split"], labelled = _read_sides(table), "label" in table
    _add_labels(csv, table)
    table["box"] = _read_boxes(csv, table)
    if boxes:
        if table.box.notna().any():
            raise UserError(
                f"{csv} has boxes, and so has {boxes}: set dataset.boxes=null, or remove {', '.join(CORNERS)}"
            )
        table["box"] = read_coco_boxes(boxes, table.path)
    table["keypoints"] = _read_parts(csv, table, parts)
    table["mask_path"] = table.get("mask", pd.Series(None, table.index, dtype=object))
    for role in ROLES:
        table[role] = table[role].where(table.split == "test", True).astype(bool) if role in table else True
    own = [] if table[[*ROLES]].all(axis=None) else [*ROLES]
    title = name or csv.stem
    layout = Layout(root, table.set_index("image_id"))
    index = select_existing(Collection(title, "", "", orientation=orientation), layout)[[*COLUMNS, *own]]

    shared = set(index.label[index.split == "train"]) & set(index.label[index.split == "test"])
    kind = "unlabelled" if not labelled else "closed-set" if shared else "zero-shot"
    split_name = f"{kind}, of {csv.name}"
    return ImageFolder(title, root, index, split_name, geometry, orientation=orientation, background=background)


def read_coco_boxes(file: str | Path, paths: pd.Series) -> pd.Series:
    """The box (x1, y1, x2, y2) of each path, from the annotations of a COCO file; None where there is none.

    An image with several annotations has the largest box; how many have several is logged. Raises UserError if the file
    is malformed, or names none of the paths.
    """
    file = Path(file).expanduser()
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    try:
        content = json.loads(check_regular(file).read_text(encoding="utf-8"))
        names = {image["id"]: str(PurePosixPath(image["file_name"])) for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            found.setdefault(names[annotation["image_id"]], []).append((x, y, x + width, y + height))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file} ({one_line(error)}): give a COCO file as dataset.boxes") from None
    except (KeyError, TypeError, AttributeError) as error:
        expected = "images with id and file_name, and annotations with image_id and bbox"
        raise UserError(
            f"{file} is no COCO file ({type(error).__name__}: {one_line(error)}): expected {expected}"
        ) from None
    if not (known := [path for path in paths if path in found]):
        named = f", such as {next(iter(found))}" if found else ""
        raise UserError(
            f"{file} has a box of none of {len(paths)} images, such as {paths.iloc[0]}: it names "
            f"{len(found)} files{named}; paths must be the same"
        )
    if several := sum(len(found[path]) > 1 for path in known):
        log.warning("%s: %d images have several boxes; the largest is used", file, several)
    largest = [max(found[path], key=_area) if path in found else None for path in paths]
    return pd.Series(largest, paths.index, dtype=object)


def _loose_images(root: Path) -> list[str]:
    try:
        return sorted(file.name for file in root.iterdir() if is_image(file))
    except OSError as error:
        raise UserError(f"cannot read the folder {root} ({error.strerror}): check the path") from None


def _unused(root: Path, used: Sequence[str]) -> list[str]:
    """The pictures below `root`, of any type and depth, that are not used."""
    types = {*PIL.Image.registered_extensions(), ".heic", ".heif", ".svg"}
    below = (file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in types)
    shown = (str(PurePosixPath(file)) for file in below if not any(part.startswith(".") for part in file.parts))
    return sorted({*shown} - {*used})


def _part_columns(csv: Path) -> list[str]:
    """The columns of parts; UserError if one coordinate is absent."""
    header = next(csv_format.reader([read_lines(csv)[0][1]], skipinitialspace=True))
    found = [name for name in header if PART.fullmatch(name)]
    for name in found:
        part = PART.fullmatch(name)[1]  # type: ignore[index]
        for coordinate in "xy":
            if f"part_{part}_{coordinate}" not in found:
                raise UserError(f"{csv} has the column {name} but not part_{part}_{coordinate}: add it")
    return found


def _parse_side(cell: str) -> str:
    if cell not in SIDES:
        raise ValueError(", ".join(SIDES))
    return cell


def _check_roles(csv: Path, table: pd.DataFrame) -> None:
    given = [name for name in ROLES if name in table]
    if (absent := [name for name in ROLES if name not in table]) and given:
        raise UserError(f"{csv} lacks the column {absent[0]}: add it, or remove {given[0]}")
    sides = _read_sides(table)
    for side, (line, row) in zip(sides, table.iterrows(), strict=True):
        must = (*(given if side == "test" else ()), *(name for name in ("image_id", "label", "split") if name in table))
        if empty := [name for name in must if row[name] is None]:
            raise UserError(f"{csv}, line {line}: {empty[0]} is empty: fill it in")


def _read_sides(table: pd.DataFrame) -> pd.Series:
    """The split of each row; validation is test where nothing is test, as in open-metric-learning."""
    sides = table.get("split", pd.Series("test", table.index))
    return sides if (sides == "test").any() else sides.replace("validation", "test")


def _add_labels(csv: Path, table: pd.DataFrame) -> None:
    """Set label (an integer) and class_name."""
    if "label" not in table:
        table["label"], texts = range(len(table)), table.path
    elif table.label.map(lambda cell: bool(re.fullmatch(r"[0-9]{1,18}", cell))).all():
        table["label"], texts = table.label.astype(int), table.label
    else:
        texts = table.label.copy()
        table["label"] = pd.factorize(texts, sort=True)[0]
    names = table.get("class_name", pd.Series(None, table.index, dtype=object))
    table["class_name"] = names.where(names.notna(), texts.astype(str))


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


def _read_parts(csv: Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Keypoints (parts, 3) of x, y, visible of each image, in the order of the columns; None without such columns."""
    parts = list(dict.fromkeys(PART.fullmatch(name)[1] for name in columns))  # type: ignore[index]
    found = np.zeros((len(table), len(parts), 3), dtype=np.float32)
    for k, part in enumerate(parts):
        x, y = (table[f"part_{part}_{coordinate}"].astype(float) for coordinate in "xy")
        if len(partly := table.index[x.isna() != y.isna()]):
            raise UserError(f"{csv}, line {partly[0]}: part {part} needs x and y: give both, or neither")
        flags = table.get(f"part_{part}_visible", pd.Series(True, table.index))
        visible = x.notna() & flags.map(lambda flag: flag is None or bool(flag))
        found[:, k] = np.stack([x.fillna(0), y.fillna(0), visible], axis=1) * visible.to_numpy()[:, None]
    return pd.Series([*found] if parts else None, table.index, dtype=object)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _relative_path(root: Path, path: str) -> str:
    """Make absolute paths below root relative, as open-metric-learning allows them; others are refused later."""
    base = root.absolute()
    return str(PurePath(path).relative_to(base) if PurePath(path).is_relative_to(base) else PurePosixPath(path))
