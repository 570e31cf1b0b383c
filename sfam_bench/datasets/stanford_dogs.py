"""Stanford Dogs (Khosla et al., 2011): 20,580 photos of 120 breeds, with boxes."""

import re
from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Box, Geometry
from sfam_bench.datasets.folder import Collection, ImageFolder, Layout, class_folders, load
from sfam_bench.datasets.matlab import read_mat
from sfam_bench.datasets.tables import parse_path

DOGS = Collection(
    title="Stanford Dogs",
    expected="Images/ with a folder for each breed, Annotation/ and, for closed_set, train_list.mat and test_list.mat "
    "(ImageNet's terms: http://vision.stanford.edu/aditya86/ImageNetDogs/main.html)",
    target="",
    images=20_580,
    classes=120,
)
FOLDER = re.compile(r"n\d{8}-(.+)")
SIDES = ("xmin", "ymin", "xmax", "ymax")


def stanford_dogs(
    root: str | Path, split: str = "zero_shot", geometry: Geometry | None = None, name: str = "stanford_dogs"
) -> ImageFolder:
    """Read Stanford Dogs; class ids are the sorted folders, from 1, and ids are the paths below Images.

    The box is the smallest around all dogs that are marked. There is no official split by class: zero_shot and few_shot
    are made of the sorted breeds. Raises UserError if there is no such data set.
    """
    return load(DOGS, (_read_folders,), ("StanfordDogs", "stanford_dogs", "Stanford_Dogs"), root, split, geometry, name)


def _read_folders(home: Path) -> Layout | None:
    files = class_folders(home / "Images", "n*-*")
    if not len(files):
        return None
    ids = files.class_folder + "/" + files.file
    folders = sorted(files.class_folder.unique())
    rows = pd.DataFrame(
        {
            "path": "Images/" + ids,
            "label": [folders.index(folder) + 1 for folder in files.class_folder],
            "class_name": [_breed(home, folder) for folder in files.class_folder],
            "box": [_read_box(home / "Annotation" / image.rsplit(".", 1)[0]) for image in ids],
        }
    )
    rows.index = pd.Index(ids)
    lists = {side: home / f"{side}_list.mat" for side in ("train", "test")}
    if all(file.is_file() for file in lists.values()):
        listed = {side: set(read_mat(file, "file_list", value=parse_path)["value"]) for side, file in lists.items()}
        if unknown := [image for image in ids if image not in listed["train"] | listed["test"]]:
            raise UserError(f"{home}: neither list has {unknown[0]}: copy train_list.mat and test_list.mat again")
        rows["train_image"] = [image in listed["train"] for image in ids]
    return Layout(home, rows)


def _breed(home: Path, folder: str) -> str:
    if not (found := FOLDER.fullmatch(folder)):
        raise UserError(f"{home / 'Images' / folder}: expected a name such as n02085620-Chihuahua: rename it")
    return found[1]


def _read_box(path: Path) -> Box | None:
    """The box around all dogs of an annotation; None without one."""
    if not path.is_file():
        return None
    text = path.read_text("utf-8", errors="replace")
    found = [re.findall(rf"<{side}>\s*(\d+(?:\.\d+)?)\s*</{side}>", text) for side in SIDES]
    corners = [[float(value) for value in values] for values in found]
    if not corners[0] or len({len(values) for values in corners}) > 1:
        raise UserError(f"{path}: expected {', '.join(SIDES)} of each object: copy it again")
    return min(corners[0]), min(corners[1]), max(corners[2]), max(corners[3])
