"""Stanford Online Products (Song et al., 2016): 120,053 photos of 22,634 products; without boxes by design."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.folder import Collection, Found, ImageFolder, load
from sfam_bench.datasets.geometry import STANDARD, Geometry
from sfam_bench.datasets.tables import parse_natural, parse_path, parse_string, read_table

SOP = Collection(
    title="Stanford Online Products",
    expected="Ebay_train.txt and Ebay_test.txt beside the *_final folders, or Info_Files and images",
    target="data-sop",
    images=120_053,
    classes=22_634,
)
COLUMNS = {"image_id": parse_string, "class_id": parse_natural, "super_class_id": parse_natural, "path": parse_path}


def sop(root: str | Path, split: str = "zero_shot", geometry: Geometry = STANDARD, name: str = "sop") -> ImageFolder:
    """Read Stanford Online Products, or another set filed in its layout under its own `name`.

    There are no boxes, hence no foreground. Photos of SOP itself are taken as they are stored, as all published figures
    do; those of another set are turned as their EXIF tags say. Raises UserError where there is no such data set.
    """
    own = replace(SOP, title=f"{name}, in the layout of SOP,", images=None, classes=None, orientation="exif")
    return load(
        SOP if name == "sop" else own,
        (_read_lists,),
        ("Stanford_Online_Products", "online_products"),
        root,
        split,
        geometry,
        name,
    )


def _read_lists(home: Path) -> Found | None:
    lists = home / "Info_Files" if (home / "Info_Files").is_dir() else home
    files = {side: lists / f"Ebay_{side}.txt" for side in ("train", "test")}
    if not all(file.is_file() for file in files.values()):
        return None
    sides = [read_table(file, COLUMNS, header=True).assign(train_class=side == "train") for side, file in files.items()]
    folder = home / "images" if (home / "images").is_dir() else home
    for file, side in zip(files.values(), sides, strict=True):
        if not any((folder / path).is_file() for path in side.path):  # else the other list would be split anew
            raise UserError(f"none of the {len(side)} images of {file} is in {folder}: copy the list or images again")
    rows = pd.concat(sides).rename(columns={"class_id": "label"})
    train, test = (set(side.class_id) for side in sides)
    if shared := sorted(train & test):
        raise UserError(
            f"{files['train']} and {files['test']} share {len(shared)} class ids, such as {shared[0]}: number the "
            "classes of both lists through"
        )
    product = rows.path.str.split("_final/").str[0]
    rows["class_name"] = product + " " + rows.label.astype(str)
    if folder != home:
        rows["path"] = "images/" + rows.path
    return Found(home, rows.drop(columns="super_class_id"))
