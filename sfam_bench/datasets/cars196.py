"""Cars196, or Stanford Cars (Krause et al., 2013): 16,185 frames of 196 models, one box each."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Box, Geometry
from sfam_bench.datasets.folder import IMAGES, Collection, ImageFolder, Layout, class_folders, load
from sfam_bench.datasets.matlab import read_mat
from sfam_bench.datasets.tables import (
    parse_flag,
    parse_natural,
    parse_number,
    parse_path,
    parse_string,
    read_csv,
    read_lines,
)

CARS = Collection(
    title="Cars196",
    expected="car_ims with cars_annos.mat, cars_train or cars_test with devkit, or class folders in car_data or images",
    target="data-cars196",
    images=16_185,
    classes=196,
)
LAST_TRAIN_CLASS = 98
# The official ids are not in alphabetical order, but all training names, up to Eagle Talon, sort before this one.
FIRST_TEST_NAME = "ferrari"
CLASS_FOLDER = "*[12][0-9][0-9][0-9]"  # class names end in a year; other folders are ignored
SIDES = ("train", "test")
CORNERS = ("x1", "y1", "x2", "y2")


def cars196(
    root: str | Path, split: str = "zero_shot", geometry: Geometry | None = None, name: str = "cars196"
) -> ImageFolder:
    """Read Cars196 in any of its four layouts, from root or one folder below.

    Ids are the official file names: "000001" in car_ims, "train/00001" or "test/00001" elsewhere. Boxes are in stored
    pixels; EXIF tags are ignored. Raises UserError if there is no such data set.
    """
    homes = ("cars196", "stanford_cars")
    return load(CARS, (_read_single, _read_devkit, _read_by_split, _read_by_class), homes, root, split, geometry, name)


def _read_single(home: Path) -> Layout | None:
    """Read the later release: all images in car_ims, all labels in cars_annos.mat."""
    if not ((home / "car_ims").is_dir() and (home / "cars_annos.mat").is_file()):
        return None
    file = home / "cars_annos.mat"
    rows = _read_annotations(file, "relative_im_path", _read_mat_names(file), test=parse_flag)
    rows["train_image"] = ~rows.test.astype(bool)
    return _make_layout(home, rows.set_index(rows.path.map(lambda path: Path(path).stem)))


def _read_devkit(home: Path) -> Layout | None:
    """Read the first release, used by torchvision and Kaggle: cars_train, cars_test and a devkit with labels."""
    if not (home / "devkit").is_dir() or not any((home / f"cars_{side}").is_dir() for side in SIDES):
        return None
    names = _read_class_names(home)
    sides, note = [], ""
    for side in SIDES:
        # Kaggle's archive nests each image folder in one of the same name.
        nested = f"cars_{side}/cars_{side}"
        folder = nested if (home / nested).is_dir() else f"cars_{side}"
        labelled = f"cars_{side}_annos_withlabels.mat"
        files = (labelled, f"devkit/{labelled}", f"devkit/cars_{side}_annos.mat")
        path = next((home / file for file in files if (home / file).is_file()), None)
        rows = pd.DataFrame() if path is None else _read_annotations(path, "fname", names)
        if len(rows):
            rows.index = side + "/" + rows.path.map(lambda file: Path(file).stem)
            rows["path"] = f"{folder}/" + rows.path
            sides.append(rows.assign(train_image=side == "train"))
        elif (home / folder).is_dir():
            unlabelled = sum(file.suffix.lower() in IMAGES for file in (home / folder).iterdir())
            note = f"{unlabelled} images of cars_{side} skipped, as {labelled} is missing"
    if not sides:
        raise UserError(f"{home / 'devkit'} labels no image: put cars_train_annos.mat there, or run make {CARS.target}")
    return _make_layout(home, pd.concat(sides), note)


def _read_by_split(home: Path) -> Layout | None:
    """Read Kaggle's {train,test}/<class>/ folders, with the boxes of anno_{train,test}.csv if present."""
    for below in ("car_data/car_data", "car_data", "."):
        sides = []
        for side in SIDES:
            files = class_folders(home / below / side, CLASS_FOLDER)
            boxes = files.file.map(_read_csv_boxes(home / f"anno_{side}.csv")) if len(files) else None
            sides.append(files.assign(side=side, box=boxes))
        files = pd.concat(sides, ignore_index=True)
        if len(files):
            rows = _label_folders(home, files, f"{below}/" + files.side)
            rows.index = files.side + "/" + files.file.map(lambda file: Path(file).stem)
            train = (files.side == "train").to_numpy()
            return _make_layout(home, rows.assign(box=files.box.to_numpy(), train_image=train))
    return None


def _read_by_class(home: Path) -> Layout | None:
    """Read `images/<class>/` folders, without boxes; the paths below images are the ids."""
    files = class_folders(home / "images", CLASS_FOLDER)
    if not len(files):
        return None
    rows = _label_folders(home, files, "images")
    return _make_layout(home, rows.set_index(files.class_folder + "/" + files.file))


def _make_layout(home: Path, rows: pd.DataFrame, note: str = "") -> Layout:
    boxes = "box" in rows and rows.box.notna().any()
    return Layout(home, rows, note="; ".join(filter(None, [note, "" if boxes else "class folders only, no boxes"])))


def _read_annotations(path: Path, file: str, names: list[str], **more: Callable[[str], Any]) -> pd.DataFrame:
    """Read a struct array of the official annotations; `file` is its column of paths. Empty if there are no labels."""
    columns = {file: parse_path, **dict.fromkeys((f"bbox_{corner}" for corner in CORNERS), parse_number), **more}
    found = read_mat(path, "annotations", **columns, **{"class": parse_natural})
    if absent := [name for name in columns if name not in found]:
        raise UserError(f"the annotations in {path} lack {', '.join(absent)}: copy the file again")
    if "class" not in found:
        return pd.DataFrame()
    label = found["class"]
    return found[[*more]].assign(
        path=found[file],
        label=label,
        class_name=[names[i - 1] if 0 < i <= len(names) else str(i) for i in label],
        box=pd.Series(_from_matlab(found[f"bbox_{corner}"] for corner in CORNERS), found.index, dtype=object),
        train_class=label <= LAST_TRAIN_CLASS,
    )


def _label_folders(home: Path, files: pd.DataFrame, below: str | pd.Series) -> pd.DataFrame:
    """Convert class folders to rows: official class ids if a list of names is beside them, else alphabetical ranks."""
    # Folder names cannot hold a slash: "Ram C/V" became "Ram C-V".
    names = [name.replace("/", "-") for name in _read_class_names(home)]
    if not files.class_folder.isin(names).all():
        names = sorted(files.class_folder.unique(), key=str.lower)
    return pd.DataFrame(
        {
            "path": below + "/" + files.class_folder + "/" + files.file,
            "label": files.class_folder.map(names.index) + 1,
            "class_name": files.class_folder,
            "train_class": files.class_folder.str.lower() < FIRST_TEST_NAME,
        }
    )


def _read_class_names(home: Path) -> list[str]:
    """Read the official names in the order of class ids, from the devkit or Kaggle's names.csv; [] if absent."""
    if (home / "devkit" / "cars_meta.mat").is_file():
        return _read_mat_names(home / "devkit" / "cars_meta.mat")
    if (home / "names.csv").is_file():
        return [line.strip(' "') for _, line in read_lines(home / "names.csv")]
    return []


def _read_mat_names(path: Path) -> list[str]:
    return [str(name) for name in read_mat(path, "class_names")["value"]]


def _read_csv_boxes(path: Path) -> dict[str, Box]:
    """Read the boxes of Kaggle's anno_{train,test}.csv (file, x1, y1, x2, y2, class) by file name; {} if absent."""
    if not path.is_file():
        return {}
    columns = {"file": parse_string, **dict.fromkeys(CORNERS, parse_number), "label": parse_natural}
    table = read_csv(path, columns, header=False)
    if (twice := table.file.duplicated()).any():
        raise UserError(f"{path}, line {twice.idxmax()}: repeats {table.file[twice].iloc[0]}: remove one of them")
    return dict(zip(table.file, _from_matlab(table[corner] for corner in CORNERS), strict=True))


def _from_matlab(corners: Iterable[np.ndarray | pd.Series]) -> list[Box]:
    """Convert x1, y1, x2, y2 from MATLAB, which counts from 1 and includes the last pixel: only x1, y1 change."""
    x1, y1, x2, y2 = (np.asarray(corner, dtype=float) for corner in corners)
    return list(zip((x1 - 1).tolist(), (y1 - 1).tolist(), x2.tolist(), y2.tolist(), strict=True))
