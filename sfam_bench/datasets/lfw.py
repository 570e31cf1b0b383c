"""Labeled Faces in the Wild (Huang et al., 2007) and data sets with pair lists in its format."""

from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, class_folders, select_existing

LFW = Collection(
    title="LFW",
    expected="a folder for each person with NAME_0001.jpg and so on (the authors' site no longer answers; a copy: "
    "https://www.kaggle.com/datasets/jessicali9530/lfw-dataset)",
    target="",
)
HOMES = ("lfw", "lfw-deepfunneled", "lfw_funneled", "lfw-align-128")


def lfw(root: str | Path, geometry: Geometry | None = None, name: str = "lfw") -> ImageFolder:
    """Read LFW, or another set in its layout; all images are test images, and ids are the paths PERSON/FILE.

    The official pairs are `pairs=PLACE/pairs.txt` (see `PairList`). Raises UserError if there is no such data set.
    """
    root = Path(root).expanduser()
    for home in (*(root / sub for sub in HOMES), root):
        files = class_folders(home)
        if len(files) and (files.file.str.startswith(files.class_folder.iloc[0] + "_")).any():
            break
    else:
        raise UserError(f"no {LFW.title} at {root}: expected {LFW.expected}; set dataset.root")
    paths = files.class_folder + "/" + files.file
    rows = pd.DataFrame({"path": paths, "class_name": files.class_folder})
    rows["label"] = files.class_folder.rank(method="dense").astype(int) - 1
    known = select_existing(LFW, Layout(home, rows.set_index(pd.Index(paths)))).assign(split="test")
    return ImageFolder(name, home, known[list(COLUMNS)], "none, all images are test images", geometry)
