"""Small data sets in the layouts that the benchmark reads, and what is in them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from omegaconf import OmegaConf
from scipy.io import savemat

from sfam_bench.app.settings import build
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.attributes import GROUPS, part_colours
from sfam_bench.datasets.folder import COLUMNS, ImageFolder

CLASSES = (1, 2, 98, 101, 102, 196)  # three that train and three that test, of CUB and of Cars196
EACH = 2  # images of a class
SIZE = (40, 30)  # px, width and height
GEOMETRY = Geometry(None, 24)
CAR_NAMES = [f"Make {label} 2012" for label in range(1, 197)]

Row = tuple[Any, ...]
Snapshot = dict[str, Row]  # by id: label, class name, split, box, keypoints, pixels, foreground


@dataclass(frozen=True)
class Table:
    """A text file of columns: where, how its cells are told apart, whether it has a header, and the column of ids."""

    path: Path
    separator: str = " "
    header: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A data set on disk."""

    name: str
    home: Path
    read: Callable[[], Any]
    images: dict[str, Path]
    tables: dict[str, Table] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    mats: dict[str, Path] = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        """All that the benchmark reads of it."""
        dataset = self.read()
        found = {str(name): _row(dataset, name) for name in dataset.index.index}
        if "attributes" in self.tables:
            colours = part_colours(dataset.root, dataset.index.label)
            found = {name: (*row, digest(colours.histograms[colours.row[name]])) for name, row in found.items()}
        return found


def digest(values: Any) -> str:
    """A short hash of an array."""
    array = np.ascontiguousarray(np.asarray(values))
    return hashlib.sha256(array.tobytes() + str(array.shape).encode()).hexdigest()[:12]


def _row(dataset: Any, name: str) -> Row:
    row, sample = dataset.index.loc[name], dataset.sample(name)
    box = None if row.box is None else tuple(round(float(edge), 3) for edge in row.box)
    points = None if sample.keypoints is None else digest(sample.keypoints.numpy())
    foreground = digest(sample.masks["foreground"].numpy()) if "foreground" in sample.masks else None
    return row.label, str(row.class_name), row.split, box, points, digest(sample.image.numpy()), foreground


def picture(path: Path, number: int) -> None:
    """A picture of noise, another for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, format="JPEG" if path.suffix == ".jpg" else "PNG")


def mask(path: Path) -> None:
    """A rectangle of light in the dark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(SIZE[::-1], np.uint8)
    pixels[8:22, 10:30] = 255
    PIL.Image.fromarray(pixels).save(path)


def lines(path: Path, rows: list[str]) -> None:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def official(target: str, **fields: Any) -> Any:
    """Read a data set as the scripts do."""
    geometry = {"_target_": "sfam_bench.core.geometry.Geometry", "resize": None, "crop": 24}
    return build(OmegaConf.create({"_target_": f"sfam_bench.datasets.{target}", "geometry": geometry, **fields}))


def cub(home: Path) -> Layout:
    """CUB's official files, all of them."""
    paths, labels = {}, {}
    for at, label in enumerate(label for label in CLASSES for _ in range(EACH)):
        name = str(at + 1)
        paths[name], labels[name] = f"{label:03d}.Kind_of_{label}/Bird_{at:04d}.jpg", label
        picture(home / "images" / paths[name], at)
        mask(home / "segmentations" / paths[name].replace(".jpg", ".png"))
    lines(home / "images.txt", [f"{name} {path}" for name, path in paths.items()])
    lines(home / "image_class_labels.txt", [f"{name} {label}" for name, label in labels.items()])
    lines(home / "classes.txt", [f"{label} {label:03d}.Kind_of_{label}" for label in CLASSES])
    lines(home / "bounding_boxes.txt", [f"{name} {4 + int(name)}.0 3.0 20.0 {10 + int(name)}.0" for name in paths])
    lines(home / "train_test_split.txt", [f"{name} {int(name) % 2}" for name in paths])
    points = [f"{name} {part} {part + 10}.5 12.0 1" for name in paths for part in range(1, 16)]
    lines(home / "parts" / "part_locs.txt", points)
    groups = list(dict.fromkeys(GROUPS))
    names = [f"has_{group}_color::{colour}" for group in groups for colour in ("red", "blue")]
    lines(home / "attributes" / "attributes.txt", [f"{at + 1} {name}" for at, name in enumerate(names)])
    present = [f"{i} {at + 1} {(int(i) + at) % 3 % 2} 3 1.5" for i in paths for at in range(len(names))]
    lines(home / "attributes" / "image_attribute_labels.txt", present)
    tables = {
        "paths": Table(home / "images.txt", columns=("id", "path")),
        "labels": Table(home / "image_class_labels.txt", columns=("id", "label")),
        "classes": Table(home / "classes.txt", columns=("label", "class_name")),
        "boxes": Table(home / "bounding_boxes.txt", columns=("id", "x", "y", "width", "height")),
        "parts": Table(home / "parts" / "part_locs.txt", columns=("id", "part", "x", "y", "visible")),
        "attributes": Table(
            home / "attributes" / "image_attribute_labels.txt", columns=("id", "attribute", "present", "sure", "time")
        ),
    }
    images = {name: home / "images" / path for name, path in paths.items()}
    masks = {name: home / "segmentations" / path.replace(".jpg", ".png") for name, path in paths.items()}
    return Layout("cub", home, lambda: official("cub.cub", root=str(home)), images, tables, masks)


def sop(home: Path) -> Layout:
    """The two lists of Stanford Online Products."""
    images, rows = {}, {"train": [], "test": []}  # type: dict[str, Path], dict[str, list[str]]
    for at, label in enumerate(label for label in range(1, 7) for _ in range(EACH)):
        path = f"{'chair' if label % 2 else 'lamp'}_final/1{label}_{at}.JPG"
        images[str(at + 1)] = home / path
        picture(home / path, at)
        rows["train" if label < 4 else "test"].append(f"{at + 1} {label} {1 + label % 2} {path}")
    columns = ("image_id", "class_id", "super_class_id", "path")
    for side, found in rows.items():
        lines(home / f"Ebay_{side}.txt", [" ".join(columns), *found])
    tables = {
        side: Table(home / f"Ebay_{side}.txt", header=True, columns=("id", "label", "super", "path")) for side in rows
    }
    return Layout("sop", home, lambda: official("sop.sop", root=str(home), name="mine"), images, tables)


def oml(home: Path) -> Layout:
    """A table of open-metric-learning."""
    images, rows = {}, []
    for at, label in enumerate(label for label in range(6) for _ in range(EACH)):
        path, test = f"kind {label}/{at}.png", label > 2
        images[path] = home / "photos" / path
        picture(images[path], at)
        role = "True" if test else ""
        rows.append(f"{label},{path},{'validation' if test else 'train'},{role},{role},{at},2,{at + 20},25")
    header = "label,path,split,is_query,is_gallery,x_1,y_1,x_2,y_2"
    lines(home / "table.csv", [header, *rows])
    columns = ("label", "path", "split", "is_query", "is_gallery", "x_1", "y_1", "x_2", "y_2")
    tables = {"csv": Table(home / "table.csv", ",", True, columns)}
    fields = {"csv": str(home / "table.csv"), "root": str(home / "photos")}
    return Layout("oml", home, lambda: official("own.from_csv", **fields), images, tables)


def annotate(path: Path, file: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write annotations of cars as the official struct array; `file` is the column of paths."""
    found = [{(file if key == "file" else key): value for key, value in row.items()} for row in rows]
    array = np.array([tuple(row.values()) for row in found], dtype=[(key, object) for key in found[0]])
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": array[None], **more}, do_compression=True)


def car(at: int, label: int) -> dict[str, Any]:
    """What the annotations say of one car."""
    box = {"bbox_x1": at + 1, "bbox_y1": 3, "bbox_x2": at + 20, "bbox_y2": 25}
    return {"file": f"{at + 1:06d}.jpg", **box, "class": label, "test": at % 2}


def cars(home: Path) -> Layout:
    """Cars196 in its later release: one folder and one .mat file."""
    rows = [car(at, label) for at, label in enumerate(label for label in CLASSES for _ in range(EACH))]
    images = {Path(row["file"]).stem: home / "car_ims" / row["file"] for row in rows}
    for at, path in enumerate(images.values()):
        picture(path, at)
    rows = [{**row, "file": f"car_ims/{row['file']}"} for row in rows]
    names = np.array(CAR_NAMES, dtype=object)[None]
    annotate(home / "cars_annos.mat", "relative_im_path", rows, class_names=names)
    mats = {"annotations": home / "cars_annos.mat"}
    return Layout("cars", home, lambda: official("cars196.cars196", root=str(home)), images, mats=mats)


def own(home: Path) -> Layout:
    """An ImageFolder over an index of one's own, with masks."""
    images = {f"{at:02d}": home / "photos" / f"{at:02d}.png" for at in range(12)}
    masks = {name: home / "masks" / f"{name}.png" for name in images}
    for at, name in enumerate(images):
        picture(images[name], at)
        mask(masks[name])
    table = pd.DataFrame({"path": [f"{name}.png" for name in images]}, index=pd.Index(images, name="image_id"))
    table["label"] = [at // EACH for at in range(len(images))]
    table["class_name"] = [f"kind {label}" for label in table.label]
    table["box"] = [(2.0, 3.0, 22.0, 20.0 + at % 5) for at in range(len(images))]
    table["keypoints"], table["mask_path"] = None, table.path
    table["split"] = ["train" if at < 6 else "test" for at in range(len(images))]
    table.to_pickle(home / "index.pkl")

    def read() -> ImageFolder:
        index = pd.read_pickle(home / "index.pkl").reindex(columns=list(COLUMNS))  # noqa: S301 - written above
        return ImageFolder("own", home / "photos", index, "own", GEOMETRY, home / "masks")

    return Layout("own", home, read, images, masks=masks)
