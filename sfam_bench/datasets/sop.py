"""Stanford Online Products (Song et al., 2016): 120,053 photos of 22,634 products, without boxes."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.folder import Collection, ImageFolder, Layout, load
from sfam_bench.datasets.tables import parse_natural, parse_path, parse_string, read_table

SOP = Collection(
    title="Stanford Online Products",
    expected="Ebay_train.txt and Ebay_test.txt beside the *_final folders, or Info_Files and images",
    target="data-sop",
    images=120_053,
    classes=22_634,
)
COLUMNS = {"image_id": parse_string, "class_id": parse_natural, "super_class_id": parse_natural, "path": parse_path}


def sop(root: str | Path, split: str = "zero_shot", geometry: Geometry | None = None, name: str = "sop") -> ImageFolder:
    """Read Stanford Online Products, or another data set in its layout under its own `name`.

    There are no boxes, hence no foreground. SOP's stored pixels are used, as in all published results; photos of
    another data set are rotated by their EXIF tags. Raises UserError if there is no such data set.
    """
    own = replace(SOP, title=f"{name}, in the layout of SOP,", images=None, classes=None, orientation="exif")
    homes = ("Stanford_Online_Products", "online_products")
    return load(SOP if name == "sop" else own, (_read_lists,), homes, root, split, geometry, name)


def _read_lists(home: Path) -> Layout | None:
    lists = home / "Info_Files" if (home / "Info_Files").is_dir() else home
    files = {side: lists / f"Ebay_{side}.txt" for side in ("train", "test")}
    if not all(file.is_file() for file in files.values()):
        return None
    sides = [read_table(file, COLUMNS, header=True).assign(train_class=side == "train") for side, file in files.items()]
    folder = home / "images" if (home / "images").is_dir() else home
    for file, side in zip(files.values(), sides, strict=True):
        if not any((folder / path).is_file() for path in side.path):  # else the other list would be split again
            raise UserError(f"none of the {len(side)} images of {file} is in {folder}: copy the list or images again")
    rows = pd.concat(sides).rename(columns={"class_id": "label"})
    train, test = (set(side.class_id) for side in sides)
    if shared := sorted(train & test):
        both = " and ".join(map(str, files.values()))
        raise UserError(f"{both} share {len(shared)} class ids, such as {shared[0]}: give each class one id")
    rows["class_name"] = rows.path.str.split("_final/").str[0] + " " + rows.label.astype(str)
    if folder != home:
        rows["path"] = "images/" + rows.path
    return Layout(home, rows.drop(columns="super_class_id"))
