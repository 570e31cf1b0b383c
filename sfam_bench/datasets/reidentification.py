"""Data sets of re-identification with official queries and gallery: In-shop Clothes, Market-1501, VeRi-776."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.base import CAMERA, ROLES
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, is_image, select_existing
from sfam_bench.datasets.tables import parse_natural, parse_path, parse_string, read_lines

SIDES = {"train": "train", "query": "test", "gallery": "test"}
NAMED = re.compile(r"(-1|\d+)_c(\d+)")  # of a file: identity and camera, as in 0002_c1s1_000451_03.jpg

INSHOP = Collection(
    title="In-shop Clothes Retrieval",
    expected="list_eval_partition.txt, or Eval/ with it, beside img/ or Img/img/ "
    "(by the terms of DeepFashion: https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html)",
    target="",
    images=52_712,
    classes=7_982,
)
MARKET = Collection(
    title="Market-1501",
    expected="bounding_box_train, query and bounding_box_test ("
    "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html)",
    target="",
)
VERI = Collection(
    title="VeRi-776",
    expected="image_train, image_query and image_test (non-commercial, on request: https://github.com/JDAI-CV/VeRidataset)",
    target="",
)


def inshop(root: str | Path, geometry: Geometry | None = None, name: str = "inshop") -> ImageFolder:
    """Read In-shop Clothes Retrieval with its official queries, gallery and boxes; ids are the listed paths.

    Boxes come from list_bbox_inshop.txt, if it is there. Raises UserError if there is no such data set.
    """
    homes = ("In_shop_Clothes_Retrieval_Benchmark", "In-shop", "inshop")
    return _read(INSHOP, _read_inshop, homes, root, geometry, name)


def market1501(root: str | Path, geometry: Geometry | None = None, name: str = "market1501") -> ImageFolder:
    """Read Market-1501 with its official queries, gallery and cameras; ids are the paths.

    Images of identity -1 are left out, as the protocol does; those of identity 0 are distractors of the gallery. Raises
    UserError if there is no such data set.
    """
    folders = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
    homes = ("Market-1501-v15.09.15", "market1501", "Market-1501")
    return _read(MARKET, _named_files(folders), homes, root, geometry, name)


def veri(root: str | Path, geometry: Geometry | None = None, name: str = "veri") -> ImageFolder:
    """Read VeRi-776 with its official queries, gallery and cameras; ids are the paths.

    Queries are in the gallery too, under the same camera, so that they are no answers to themselves. Raises UserError
    if there is no such data set.
    """
    folders = {"image_train": "train", "image_query": "query", "image_test": "gallery"}
    return _read(VERI, _named_files(folders), ("VeRi", "VeRi-776", "VeRi_with_plate"), root, geometry, name)


def _read(
    collection: Collection,
    reader: Callable[[Path], Layout | None],
    homes: tuple[str, ...],
    root: str | Path,
    geometry: Geometry | None,
    name: str,
) -> ImageFolder:
    """The first layout in root or its sub-folders `homes`, split and with roles by its column `role`."""
    root = Path(root).expanduser()
    found = next((layout for home in (root, *(root / sub for sub in homes)) if (layout := reader(home))), None)
    if found is None:
        raise UserError(f"no {collection.title} at {root}: expected {collection.expected}; set dataset.root")
    rows = select_existing(collection, found)
    test = rows["role"] != "train"
    rows["split"] = rows["role"].map(SIDES)
    rows[ROLES[0]], rows[ROLES[1]] = rows["role"] != "gallery", rows["role"] != "query"
    if absent := [role for role in ("query", "gallery") if not (rows["role"] == role).any()]:
        raise UserError(f"{collection.title} at {found.home} has no {absent[0]} images: copy them too")
    shared = set(rows["label"][~test]) & set(rows["label"][test])
    index = rows[[*COLUMNS, *ROLES, *([CAMERA] if CAMERA in rows else [])]]
    split_name = f"{'closed-set' if shared else 'zero-shot'}, official"
    return ImageFolder(name, found.home, index, split_name, geometry, orientation=collection.orientation)


def _read_inshop(home: Path) -> Layout | None:
    files = [home / sub / "list_eval_partition.txt" for sub in (".", "Eval", "Anno")]
    listed = next((file for file in files if file.is_file()), None)
    if listed is None:
        return None
    columns = {"image_name": parse_path, "item_id": _item, "evaluation_status": _role}
    rows = _read_counted(listed, columns).set_index("image_name", drop=False)
    rows.columns = pd.Index(["path", "label", "role"])
    rows["class_name"] = "id_" + rows["label"].astype(str).str.zfill(8)
    places = [home / sub / "list_bbox_inshop.txt" for sub in (".", "Anno", "Eval")]
    if boxes := next((file for file in places if file.is_file()), None):
        corners = dict.fromkeys(("x_1", "y_1", "x_2", "y_2"), parse_natural)
        known = _read_counted(
            boxes, {"image_name": parse_path, "clothes_type": parse_string, "pose_type": parse_string, **corners}
        ).set_index("image_name")
        values = list(map(tuple, known[[*corners]].to_numpy(dtype=float).tolist()))
        rows["box"] = pd.Series(values, known.index, dtype=object).reindex(rows.index)
    if (home / "Img" / "img").is_dir():
        rows["path"] = "Img/" + rows["path"]
    return Layout(home, rows)


def _read_counted(path: Path, columns: Mapping[str, Callable[[str], object]]) -> pd.DataFrame:
    """A table of DeepFashion: the number of rows, a header, and one row a line, its cells separated by blanks."""
    (at, count), *lines = read_lines(path)
    if not count.isdecimal() or int(count) != len(lines) - 1 or lines[0][1].split() != [*columns]:
        expected = f"the number of rows, {len(lines) - 1}, and then the header {' '.join(columns)}"
        raise UserError(f"{path}, line {at}: expected {expected}: copy it again")
    rows = []
    for line, text in lines[1:]:
        cells = text.split()
        if len(cells) != len(columns):
            raise UserError(f"{path}, line {line}: {len(cells)} cells instead of {len(columns)}: copy it again")
        try:
            rows.append([parse(cell) for parse, cell in zip(columns.values(), cells, strict=True)])
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {text!r}: expected {error}: copy it again") from None
    return pd.DataFrame(rows, columns=[*columns])


def _item(cell: str) -> int:
    if not (found := re.fullmatch(r"id_(\d{1,12})", cell)):
        raise ValueError("an item such as id_00000002")
    return int(found[1])


def _role(cell: str) -> str:
    if cell not in SIDES:
        raise ValueError(" or ".join(SIDES))
    return cell


def _named_files(folders: Mapping[str, str]) -> Callable[[Path], Layout | None]:
    """A reader of folders whose files have identity and camera in their names; `folders` gives each its role."""

    def read(home: Path) -> Layout | None:
        if not all((home / folder).is_dir() for folder in folders):
            return None
        rows = []
        for folder, role in folders.items():
            for file in sorted((home / folder).iterdir()):
                if not is_image(file):
                    continue
                if not (found := NAMED.match(file.name)):
                    raise UserError(f"{file}: expected a name such as 0002_c1s1_000451_03.jpg: remove or rename it")
                if found[1] != "-1":
                    rows.append((f"{folder}/{file.name}", int(found[1]), role, int(found[2])))
        table = pd.DataFrame(rows, columns=["path", "label", "role", CAMERA]).set_index("path", drop=False)
        return Layout(home, table.assign(class_name=table["label"].astype(str)))

    return read
