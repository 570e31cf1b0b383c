"""CUB's colour attributes, and the similarity of two birds part by part computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.tables import parse_flag, parse_natural, parse_number, parse_string, read_lines, read_table

# The group of colour attributes of each part, in the order of parts/parts.txt; both eyes, legs and wings share one.
GROUPS = (
    *("back", "bill", "belly", "breast", "crown", "forehead", "eye", "leg", "wing", "nape"),
    *("eye", "leg", "wing", "upper_tail", "throat"),
)
Level: TypeAlias = Literal["auto", "class", "image"]
Agreement: TypeAlias = Float[np.ndarray, "references parts"]


@dataclass(frozen=True, eq=False)
class PartColours:
    """Colour histograms by image and part, (rows, parts, colours), of unit length; zero for parts without colours."""

    histograms: Float[np.ndarray, "rows parts colours"]
    row: dict[str, int]
    level: str

    def agreement(self, query: str, references: Sequence[str]) -> Agreement:
        """Cosine similarity of the histograms of each part; NaN if either has none."""
        own, others = self.histograms[self.row[query]], self.histograms[[self.row[name] for name in references]]
        known = own.any(axis=1) & others.any(axis=2)
        return np.where(known, (others * own).sum(axis=2), np.nan)


def part_colours(root: str | Path, labels: pd.Series, level: Level = "auto") -> PartColours:
    """Read the colour attributes of images with class ids `labels`: per image if the copy has them, else per class.

    Raises UserError if the files are absent or inconsistent.
    """
    root = Path(root)
    folder = root / "attributes"
    homes = (folder, root, root.parent)  # the official archive unpacks the names beside the folder of the data set
    files = [home / "attributes.txt" for home in homes]
    names = _read_names(next((file for file in files if file.is_file()), files[0]))
    groups = [np.flatnonzero(names.str.startswith(f"has_{group}_color::")) for group in GROUPS]
    if absent := [group for group, found in zip(GROUPS, groups, strict=True) if not len(found)]:
        raise UserError(f"the attributes at {root} name no colour of the {absent[0]}: copy attributes.txt again")
    by_image = folder / "image_attribute_labels.txt"
    if level == "image" or (level == "auto" and by_image.is_file()):
        table = _read_image_attributes(by_image, [*labels.index], len(names))
        row, level = [*range(len(labels))], "image"
    else:
        table = _read_class_attributes(folder / "class_attribute_labels_continuous.txt", len(names))
        row, level = (labels - 1).tolist(), "class"
        if max(row) >= len(table) or min(row) < 0:
            label = max(row) + 1 if min(row) >= 0 else min(row) + 1
            raise UserError(f"{folder} describes {len(table)} classes, and there is a class {label}: copy again")
    histograms = np.zeros((len(table), len(GROUPS), max(map(len, groups))))
    for part, columns in enumerate(groups):
        histograms[:, part, : len(columns)] = table[:, columns]
    length = np.linalg.norm(histograms, axis=2, keepdims=True)
    rows = dict(zip(map(str, labels.index), row, strict=True))
    return PartColours(histograms / np.where(length > 0, length, 1), rows, level)


def _read_names(path: Path) -> pd.Series:
    table = read_table(_find_file(path), {"attribute": parse_natural, "name": parse_string})
    if [*table.index] != [*range(1, len(table) + 1)]:
        raise UserError(f"{path} does not number its attributes from 1 in order: copy it again")
    return table.name.astype(str)


def _read_class_attributes(path: Path, attributes: int) -> np.ndarray:
    """Read the percentage of annotators by class and attribute; row k is class k + 1."""
    rows = []
    for at, line in read_lines(_find_file(path)):
        try:
            rows.append([parse_number(cell) for cell in line.split()])
        except ValueError as error:
            raise UserError(f"{path}, line {at}: expected {error} in each cell: copy it again") from None
        if len(rows[-1]) != attributes:
            raise UserError(f"{path}, line {at}: {len(rows[-1])} cells, expected {attributes}: copy it again")
    return np.array(rows)


def _read_image_attributes(path: Path, image_ids: Sequence[str], attributes: int) -> np.ndarray:
    """Read 1 for attributes that an annotator saw; some lines of the official file have extra columns at the end."""
    table, place = np.zeros((len(image_ids), attributes)), {str(name): at for at, name in enumerate(image_ids)}
    found = np.zeros(len(image_ids), dtype=bool)
    with _find_file(path).open("rb") as file:
        for at, line in enumerate(file, 1):
            try:
                image, attribute, present = line.decode("utf-8-sig").split(None, 3)[:3]
                column, value = range(attributes).index(int(attribute) - 1), parse_flag(present)
                if image in place:
                    table[place[image], column], found[place[image]] = value, True
            except (ValueError, IndexError):
                if line.strip():
                    expected = f"image, attribute of 1 to {attributes}, is_present"
                    raise UserError(
                        f"{path}, line {at}: {line.strip()!r}: expected {expected}: copy it again"
                    ) from None
    if not found.all():
        raise UserError(f"{path} has no line for image {image_ids[int(found.argmin())]}: copy it again")
    return table


def _find_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"no {path}: part agreement needs CUB's attributes; copy them there (make data-cub)")
    return path
