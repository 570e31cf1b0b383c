"""miniImageNet (Vinyals et al., 2016) in the split of Ravi and Larochelle (ICLR 2017): 100 classes of 600 photos."""

from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, select_existing
from sfam_bench.datasets.geometry import STANDARD, Geometry
from sfam_bench.datasets.tables import parse_path, parse_string, read_csv

MINI = Collection(
    title="miniImageNet",
    expected="train.csv, val.csv and test.csv (filename,label) beside images/ (ImageNet's terms; lists: "
    "https://github.com/twitter-research/meta-learning-lstm/tree/master/data/miniImagenet)",
    target="",
    images=60_000,
)
FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def mini_imagenet(root: str | Path, geometry: Geometry = STANDARD, name: str = "mini_imagenet") -> ImageFolder:
    """Read miniImageNet with its official 64, 16 and 20 classes; labels count the sorted WordNet ids from 0.

    Ids are the file names. Raises UserError if there is no such data set.
    """
    root = Path(root).expanduser()
    homes = (root, root / "mini_imagenet", root / "miniImageNet", root / "mini-imagenet")
    home = next((home for home in homes if all((home / file).is_file() for file in FILES.values())), None)
    if home is None:
        raise UserError(f"no {MINI.title} at {root}: expected {MINI.expected}; set dataset.root")
    columns = {"filename": parse_path, "label": parse_string}
    sides = [read_csv(home / file, columns).assign(split=side) for side, file in FILES.items()]
    rows = pd.concat(sides, ignore_index=True).rename(columns={"label": "class_name"})
    of_class = rows.groupby("class_name")["split"].nunique()
    if (of_class > 1).any():
        raise UserError(f"{home}: class {of_class.index[of_class > 1][0]} is in two of {', '.join(FILES.values())}")
    rows["label"] = rows["class_name"].rank(method="dense").astype(int) - 1
    rows["path"] = "images/" + rows["filename"]
    known = select_existing(MINI, Layout(home, rows.set_index("filename")))
    counts = "/".join(str(known.label[known.split == side].nunique()) for side in FILES)
    return ImageFolder(name, home, known[list(COLUMNS)], f"few-shot, official, {counts} classes", geometry)
