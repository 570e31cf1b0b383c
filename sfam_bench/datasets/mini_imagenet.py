"""miniImageNet (Vinyals et al., 2016; split of Ravi and Larochelle, 2017): 60,000 images of 64, 16 and 20 classes."""

from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, select_existing
from sfam_bench.datasets.tables import parse_path, parse_string, read_csv

MINI_IMAGENET = Collection("miniImageNet", "", "", images=60_000, classes=100)
FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def mini_imagenet(root: str | Path, geometry: Geometry | None = None, name: str = "mini_imagenet") -> ImageFolder:
    """Read train.csv, val.csv and test.csv (columns filename and label) beside the folder `images`.

    Labels are WordNet ids; the files are the split. Raises UserError if a CSV is absent or malformed, or if two of them
    share a class.
    """
    root = Path(root).expanduser()
    sides = []
    for side, file in FILES.items():
        if not (root / file).is_file():
            raise UserError(
                f"no miniImageNet at {root}: expected {', '.join(FILES.values())} and images; set dataset.root"
            )
        sides.append(read_csv(root / file, {"filename": parse_path, "label": parse_string}).assign(split=side))
    rows = pd.concat(sides, ignore_index=True).rename(columns={"label": "class_name"})
    several = rows.groupby("class_name")["split"].nunique()
    if (several > 1).any():
        raise UserError(f"{root}: the CSVs share the class {several.index[several > 1][0]}: copy them again")
    rows["label"] = pd.factorize(rows.class_name, sort=True)[0] + 1
    rows["path"] = "images/" + rows.filename
    index = select_existing(MINI_IMAGENET, Layout(root, rows.set_index("filename")))[[*COLUMNS]]
    return ImageFolder(name, root, index, "few-shot, of the CSVs", geometry, orientation="stored")
