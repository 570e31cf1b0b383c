"""CUB-200-2011 (Wah et al., 2011): 11,788 birds of 200 species with boxes, 15 parts and, apart, segmentations."""

from pathlib import Path

import numpy as np
import pandas as pd

from sfam_bench.datasets.folder import Collection, Found, ImageFolder, class_folders, load, read_table
from sfam_bench.datasets.geometry import STANDARD, Geometry
from sfam_bench.errors import UserError

CUB = Collection(
    title="CUB-200-2011",
    expected="images.txt or class folders such as 001.Black_footed_Albatross",
    target="data-cub",
    images=11_788,
    classes=200,
)
LAST_TRAIN_CLASS = 100


def cub(root: str | Path, split: str = "zero_shot", geometry: Geometry = STANDARD, name: str = "cub") -> ImageFolder:
    """Read CUB-200-2011 from its official files or from class folders, at root or one folder below.

    Boxes, parts and segmentations are used where they are; all are in pixels as they are stored, which EXIF tags do not
    turn. Raises UserError where there is no such data set.
    """
    return load(CUB, (_official, _folders), ("CUB_200_2011", "cub200"), root, split, geometry, name)


def _official(home: Path) -> Found | None:
    if not (home / "images.txt").is_file():
        return None
    rows = read_table(home / "images.txt", {"image_id": str, "path": str})
    labels = read_table(home / "image_class_labels.txt", {"image_id": str, "label": int}).label
    unlabelled = rows.index.difference(labels.index)
    if len(unlabelled):
        raise UserError(f"{home / 'image_class_labels.txt'} has no label for image {unlabelled[0]}: copy it again")
    rows["label"] = labels
    folders = rows.path.str.split("/").str[0]
    if (home / "classes.txt").is_file():
        names = read_table(home / "classes.txt", {"label": int, "class_name": str}).class_name
        folders = rows.label.map(names).fillna(folders)
    rows["class_name"] = folders.map(_readable)
    if (home / "bounding_boxes.txt").is_file():
        rows["box"] = _boxes(home / "bounding_boxes.txt")
    if (home / "parts" / "part_locs.txt").is_file():
        rows["keypoints"] = _parts(home / "parts" / "part_locs.txt")
    if (home / "train_test_split.txt").is_file():
        trains = read_table(home / "train_test_split.txt", {"image_id": str, "train": int}).train
        rows["train_image"] = trains.reindex(rows.index) == 1
    return _found(home, rows, "images/")


def _folders(home: Path) -> Found | None:
    """Read class folders, `home/images/001.Name/*.jpg` or `home/001.Name/*.jpg`: the file names are the ids."""
    for below in ("images/", ""):
        files = class_folders(home / below, "[0-9][0-9][0-9].*")
        files = files[~files.file.str.contains("_rgb.", regex=False)]  # the official archive's eight stray doubles
        if len(files):
            path = files.class_folder + "/" + files.file
            names = files.class_folder.map(_readable)
            rows = pd.DataFrame({"path": path, "label": files.class_folder.str[:3].astype(int), "class_name": names})
            return _found(
                home, rows.set_index(files.file.map(lambda file: Path(file).stem)), below, "class folders only"
            )
    return None


def _found(home: Path, rows: pd.DataFrame, below: str, note: str = "") -> Found:
    """Add what both layouts share: the class split, segmentations beside or inside `home`, what there is not."""
    rows["train_class"] = rows.label <= LAST_TRAIN_CLASS
    rows["mask_path"] = "segmentations/" + rows.path.str.replace(r"\.\w+$", ".png", regex=True)
    rows["path"] = below + rows.path
    mask_root = next((place for place in (home, home.parent) if (place / "segmentations").is_dir()), None)
    absent = [word for word, column in (("boxes", "box"), ("parts", "keypoints")) if column not in rows]
    missing = f"no {' and no '.join(absent)}" if absent else ""
    return Found(home, rows, mask_root, ", ".join(filter(None, [note, missing])))


def _readable(folder: str) -> str:
    return folder.split(".", 1)[-1].replace("_", " ")


def _boxes(path: Path) -> pd.Series:
    """Read x, y, width, height and return corners; some reach past their image, which the geometry clips."""
    table = read_table(path, {"image_id": str, "x": float, "y": float, "width": float, "height": float})
    corners = zip(table.x, table.y, table.x + table.width, table.y + table.height, strict=True)
    return pd.Series(list(corners), index=table.index, dtype=object)


def _parts(path: Path) -> pd.Series:
    """Read x, y, visible of every part and return one (parts, 3) float32 array an image, in the order of parts.txt."""
    table = read_table(path, {"image_id": str, "part": int, "x": float, "y": float, "visible": float})
    keypoints = np.zeros((table.index.nunique(), table.part.max(), 3), dtype=np.float32)
    rows, ids = pd.factorize(table.index)
    keypoints[rows, table.part - 1] = table[["x", "y", "visible"]]
    return pd.Series(list(keypoints), index=ids, dtype=object)
