"""CUB-200-2011 (Wah et al., 2011): 11,788 birds of 200 species with boxes, 15 parts and segmentations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.folder import Collection, ImageFolder, Layout, class_folders, load
from sfam_bench.datasets.tables import parse_flag, parse_natural, parse_number, parse_path, parse_string, read_table

CUB = Collection(
    title="CUB-200-2011",
    expected="images.txt or class folders such as 001.Black_footed_Albatross",
    target="data-cub",
    images=11_788,
    classes=200,
    numbered=True,
)
LAST_TRAIN_CLASS = 100
PARTS = 15


def cub(root: str | Path, split: str = "zero_shot", geometry: Geometry | None = None, name: str = "cub") -> ImageFolder:
    """Read CUB-200-2011 from its official files or from class folders, in root or one folder below.

    Boxes, parts and segmentations are used if present, all in stored pixels; EXIF tags are ignored. Raises UserError if
    there is no such data set.
    """
    return load(CUB, (_read_official, _read_folders), ("CUB_200_2011", "cub200"), root, split, geometry, name)


def _read_official(home: Path) -> Layout | None:
    if not (home / "images.txt").is_file():
        return None
    rows = read_table(home / "images.txt", {"image_id": parse_string, "path": parse_path})
    rows["label"] = _read_for_each(rows, home / "image_class_labels.txt", "label", parse_natural)
    folders = rows.path.str.split("/").str[0]
    if (home / "classes.txt").is_file():
        names = read_table(home / "classes.txt", {"label": parse_natural, "class_name": parse_string}).class_name
        folders = rows.label.map(names).fillna(folders)
    rows["class_name"] = folders.map(_format_name)
    if (home / "bounding_boxes.txt").is_file():
        rows["box"] = _read_boxes(home / "bounding_boxes.txt")
    if (home / "parts" / "part_locs.txt").is_file():
        rows["keypoints"] = _read_parts(home / "parts" / "part_locs.txt")
    if (home / "train_test_split.txt").is_file():
        rows["train_image"] = _read_for_each(rows, home / "train_test_split.txt", "train", parse_flag)
    return _make_layout(home, rows, "images/")


def _read_for_each(rows: pd.DataFrame, path: Path, column: str, take: Callable[[str], Any]) -> pd.Series:
    """Read one value for each image of `rows`; UserError if one has none."""
    found = read_table(path, {"image_id": parse_string, column: take})[column]
    if len(absent := rows.index.difference(found.index)):
        raise UserError(f"{path} has no {column} for image {absent[0]}: copy it again")
    return found.reindex(rows.index)


def _read_folders(home: Path) -> Layout | None:
    """Read class folders, `home/images/001.Name/*.jpg` or `home/001.Name/*.jpg`; the file names are the ids."""
    for below in ("images/", ""):
        files = class_folders(home / below, "[0-9][0-9][0-9].*")
        files = files[~files.file.str.contains("_rgb.", regex=False)]  # eight stray duplicates in the official archive
        if len(files):
            path = files.class_folder + "/" + files.file
            names, ids = files.class_folder.map(_format_name), files.file.map(lambda file: Path(file).stem)
            rows = pd.DataFrame({"path": path, "label": files.class_folder.str[:3].astype(int), "class_name": names})
            return _make_layout(home, rows.set_index(ids), below, "class folders only")
    return None


def _make_layout(home: Path, rows: pd.DataFrame, below: str, note: str = "") -> Layout:
    """Add the class split, segmentations beside or inside `home`, and a note of what is missing."""
    rows["train_class"], rows["class_index"] = rows.label <= LAST_TRAIN_CLASS, rows.label - 1
    rows["mask_path"] = "segmentations/" + rows.path.str.replace(r"\.\w+$", ".png", regex=True)
    rows["path"] = below + rows.path
    mask_root = next((place for place in (home, home.parent) if (place / "segmentations").is_dir()), None)
    absent = [word for word, column in (("boxes", "box"), ("parts", "keypoints")) if column not in rows]
    if mask_root is None:
        rows["mask_path"] = None
        absent.append("segmentations, for which boxes serve" if "box" in rows else "segmentations")
    missing = f"no {' and no '.join(absent)}" if absent else ""
    return Layout(home, rows, mask_root, ", ".join(filter(None, [note, missing])))


def _format_name(folder: str) -> str:
    return folder.split(".", 1)[-1].replace("_", " ")


def _read_boxes(path: Path) -> pd.Series:
    """Read x, y, width, height as corners; some exceed their image by a pixel or two."""
    table = read_table(path, {"image_id": parse_string, **dict.fromkeys(("x", "y", "width", "height"), parse_number)})
    corners = zip(table.x, table.y, table.x + table.width, table.y + table.height, strict=True)
    return pd.Series(list(corners), index=table.index, dtype=object)


def _read_parts(path: Path) -> pd.Series:
    """Read x, y, visible of every part as a (parts, 3) float32 array per image, in the order of parts.txt."""
    columns = {"image_id": parse_string, "part": parse_natural, **dict.fromkeys("xy", parse_number)}
    columns["visible"] = parse_flag
    table = read_table(path, columns, keys=2)
    rows, ids = pd.factorize(table.index)
    if not table.part.between(1, PARTS).all() or len(table) < PARTS * len(ids):
        raise UserError(f"{path}: expected parts 1 to {PARTS} of each image, one line each: copy it again")
    keypoints = np.zeros((len(ids), PARTS, 3), dtype=np.float32)
    keypoints[rows, table.part - 1] = table[["x", "y", "visible"]]
    return pd.Series(list(keypoints), index=ids, dtype=object)
