"""A data set made of a folder of images and an index; used for CUB, Cars196, SOP and CSV files."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np
import pandas as pd
import PIL.Image

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.geometry import STANDARD, Geometry
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Mask
from sfam_bench.datasets.checks import check_index, check_points, check_rows, clip_box
from sfam_bench.datasets.decode import Orientation, open_image, open_mask, parse_colour
from sfam_bench.datasets.splits import assign_splits
from sfam_bench.datasets.tables import leads_out

COLUMNS = ("path", "label", "class_name", "box", "keypoints", "mask_path", "split")
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@final
@dataclass(frozen=True, eq=False)
class ImageFolder(Checked):
    """Images below `root`, each with a row of `index`; implements `sfam_bench.datasets.base.Dataset`.

    `index` is keyed by the official `image_id`, with the columns path (below root), label (the official class id),
    class_name, box (x1, y1, x2, y2 in pixels of the file, far edges exclusive) or None, keypoints ((parts, 3) array of
    x, y, visible) or None, mask_path (below mask_root) or None, split ("train", "validation" or "test"); if the data
    set separates queries from the gallery also is_query and is_gallery (booleans).

    `orientation`: "exif" rotates photos by their EXIF tag, and refuses rotated photos that have a box, mask or
    keypoints; "stored" uses the pixels of the file, as the boxes of public data sets do. `background` is the colour
    behind transparent pixels. `geometry` None is that of the model in commands, and the standard one otherwise.
    """

    name: str
    root: Path
    index: pd.DataFrame
    split_name: str
    geometry: Geometry | None = None
    mask_root: Path | None = None
    orientation: Orientation = "exif"
    background: str = "white"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_colour(self.background)
        check_index(self.index, f"{self.name} at {self.root}", COLUMNS)

    def image(self, image_id: str) -> PIL.Image.Image:
        """Open one image as RGB, untransformed; raises UserError if the file is absent, damaged or ambiguous."""
        row = self._row(image_id)
        marked = any(mark is not None for mark in (row.box, row.mask_path, row.keypoints))
        return open_image(resolve_inside(self.root, row.path), self.orientation, self.background, marked)

    def sample(self, image_id: str) -> Sample:
        """Load and transform one image with its foreground, box and keypoints; raises UserError as `image` does."""
        row, image = self._row(image_id), self.image(image_id)
        box = clip_box(row.box, image.size, file := str(self.root / row.path))
        check_points(row.keypoints, image.size, file)
        return (self.geometry or STANDARD)(image, box, self._mask(row.mask_path, image.size), row.keypoints)

    def regions(self, query_id: str, reference_id: str, sample: Sample) -> dict[str, Mask]:
        """Return the query's "foreground" and "box" if known; they do not depend on the reference."""
        return dict(sample.masks)

    def _row(self, image_id: str) -> Any:
        try:
            return self.index.loc[image_id]
        except KeyError:
            raise UserError(f"no image {image_id!r} in {self.name} at {self.root}: use an id of its index") from None

    def _mask(self, path: str | None, size: tuple[int, int]) -> np.ndarray | None:
        if path is None:
            return None
        file = resolve_inside(self.mask_root or self.root, path)
        mask = open_mask(file, self.orientation)
        if (found := mask.shape[::-1]) != size:
            raise UserError(f"{file} is {found} and its image {size} (width, height): delete it or copy it again")
        return mask


@dataclass(frozen=True)
class Collection:
    """Title and complete size of a public data set, with the expected files and Make target for errors.

    Class ids are 1 to `classes`; `numbered`: class folders begin with the class id, such as 001.Black_footed_Albatross.
    Published boxes and results refer to the stored pixels, so EXIF tags are ignored by default.
    """

    title: str
    expected: str
    target: str
    images: int | None = None
    classes: int | None = None
    numbered: bool = False
    orientation: Orientation = "stored"


@dataclass(frozen=True, eq=False)
class Layout:
    """The result of a reader: index columns except split, with train_class and train_image, for files below `home`."""

    home: Path
    rows: pd.DataFrame
    mask_root: Path | None = None
    note: str = ""


def load(
    collection: Collection,
    readers: Sequence[Callable[[Path], Layout | None]],
    homes: Sequence[str],
    root: str | Path,
    split: str,
    geometry: Geometry | None,
    name: str,
) -> ImageFolder:
    """Load and split the first layout that a reader finds in root or its sub-folders `homes`."""
    root = Path(root).expanduser()
    for home in (root, *(root / sub for sub in homes)):
        for reader in readers:
            if found := reader(home):
                rows = select_existing(collection, found)
                sides, split_name = assign_splits(rows, split, f"{collection.title} at {found.home}")
                index = rows.assign(split=sides)[list(COLUMNS)]
                turn = collection.orientation
                return ImageFolder(name, found.home, index, split_name, geometry, found.mask_root, turn)
    raise UserError(
        f"no {collection.title} at {root}: expected {collection.expected}; "
        f"set dataset.root or SFAM_BENCH_DATA, or run make {collection.target}"
    )


def select_existing(collection: Collection, found: Layout) -> pd.DataFrame:
    """Select the rows whose images exist, with all index columns except split, and log once what is missing."""
    rows = found.rows.reindex(columns=list(dict.fromkeys([*COLUMNS[:-1], *found.rows.columns])))
    rows["mask_path"] = rows.mask_path.map(lambda path: str(PurePosixPath(path)), na_action="ignore")
    for column in ("box", "keypoints", "mask_path"):
        rows[column] = rows[column].astype(object).where(rows[column].notna(), None)
    rows.index = rows.index.astype(str).rename("image_id")
    rows["path"] = rows.path.map(lambda path: str(PurePosixPath(path)))
    title = f"{collection.title} at {found.home}"
    check_rows(rows, title, collection.classes, collection.numbered)
    exists = rows.path.isin(filter_existing(found.home, rows.path))
    if not exists.any():
        example = f", such as {rows.path.iloc[0]}" if len(rows) else ""
        raise UserError(f"{title}: none of its {len(rows)} images is there{example}; copy them or set dataset.root")
    kept = rows[exists].copy()
    masks = filter_existing(found.mask_root or found.home, kept.mask_path.dropna())
    kept["mask_path"] = kept.mask_path.where(kept.mask_path.isin(masks), None)
    _report_missing(collection, found, rows, kept)
    return kept


def _report_missing(collection: Collection, found: Layout, rows: pd.DataFrame, kept: pd.DataFrame) -> None:
    images, classes = len(kept), kept.label.nunique()
    all_images, all_classes = collection.images or len(rows), collection.classes or rows.label.nunique()
    parts = []
    if images < all_images or classes < all_classes:
        parts.append(f"{images} of {all_images} images, {classes} of {all_classes} classes")
    if len(absent := rows.path.drop(kept.index)):
        parts.append(f"{len(absent)} that its files name are absent, such as {absent.iloc[0]}")
    if len(absent := rows.mask_path[kept.index[kept.mask_path.isna()]].dropna()):
        parts.append(f"{len(absent)} of its masks are absent, such as {absent.iloc[0]}; boxes serve, where known")
    for column, what in (("mask_path", "mask"), ("box", "box"), ("keypoints", "parts")):
        if 0 < (known := kept[column].notna().sum()) < images:
            parts.append(f"{images - known} images have no {what}")
    if found.note:
        parts.append(found.note)
    if parts:
        logging.getLogger(__name__).warning("%s at %s: %s", collection.title, found.home, "; ".join(parts))


def resolve_inside(root: Path, relative: str) -> Path:
    """Join root and a path of a data file; raises UserError if it leads out of root, by name or by link."""
    if leads_out(relative):
        raise UserError(f"path {relative!r} leads out of {root}: correct the file that lists it")
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link out of {root}: copy its target, or set dataset.root to that place")
    return path


def filter_existing(root: Path, paths: Iterable[str]) -> set[str]:
    """Return the paths that exist, listing each folder once, as a stat call per image is slow on a cluster."""
    wanted = set(paths)
    existing = set()
    for folder in {PurePosixPath(path).parent for path in wanted}:
        directory = resolve_inside(root, str(folder))
        for entry in os.scandir(directory) if directory.is_dir() else ():
            path = str(folder / entry.name)
            if path in wanted:
                existing.add(path)
                if entry.is_symlink():
                    resolve_inside(root, path)
    return existing


def class_folders(folder: Path, pattern: str = "*") -> pd.DataFrame:
    """List the images of each class folder, sorted, in columns class_folder and file; empty if there are none."""
    rows = [
        (directory.name, file.name)
        for directory in sorted(folder.glob(pattern))
        if directory.is_dir() and not directory.name.startswith(".")
        for file in sorted(directory.iterdir())
        if is_image(file)
    ]
    return pd.DataFrame(rows, columns=["class_folder", "file"], dtype=object)


def is_image(file: Path) -> bool:
    """Whether a file is an image of a data set by its name; hidden ones, as macOS writes beside others, are not."""
    return file.suffix.lower() in IMAGES and not file.name.startswith(".")
