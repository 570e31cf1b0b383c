"""CUB's colour attributes, and by them how alike each part of two birds is."""

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
    """Colour histograms of unit length by image and part, (rows, parts, colours); a part without any is zero."""

    histograms: Float[np.ndarray, "rows parts colours"]
    row: dict[str, int]
    level: str

    def agreement(self, query: str, references: Sequence[str]) -> Agreement:
        """Cosine of the histograms of each part; NaN where either has none."""
        ours, theirs = self.histograms[self.row[query]], self.histograms[[self.row[name] for name in references]]
        known = ours.any(axis=1) & theirs.any(axis=2)
        return np.where(known, (theirs * ours).sum(axis=2), np.nan)


def part_colours(root: str | Path, labels: pd.Series, level: Level = "auto") -> PartColours:
    """Read the attributes of the images whose class ids are `labels`, by image where a full copy has them.

    Raises UserError where the files are absent or do not fit one another.
    """
    root = Path(root)
    folder = root / "attributes"
    names = _read_names(next((path for path in _list_folders(root) if path.is_file()), folder / "attributes.txt"))
    groups = [np.flatnonzero(names.str.startswith(f"has_{group}_color::")) for group in GROUPS]
    if absent := [group for group, found in zip(GROUPS, groups, strict=True) if not len(found)]:
        raise UserError(f"the attributes at {root} name no colour of the {absent[0]}: copy attributes.txt again")
    by_image = folder / "image_attribute_labels.txt"
    if level == "image" or (level == "auto" and by_image.is_file()):
        table, row, level = (
            _read_image_attributes(by_image, [*labels.index], len(names)),
            [*range(len(labels))],
            "image",
        )
    else:
        table, level = _read_class_attributes(folder / "class_attribute_labels_continuous.txt", len(names)), "class"
        row = (labels - 1).tolist()
        if max(row) >= len(table) or min(row) < 0:
            label = max(row) + 1 if min(row) >= 0 else min(row) + 1
            raise UserError(f"{folder} describes {len(table)} classes, and there is a class {label}: copy again")
    histograms = np.zeros((len(table), len(GROUPS), max(map(len, groups))))
    for part, columns in enumerate(groups):
        histograms[:, part, : len(columns)] = table[:, columns]
    length = np.linalg.norm(histograms, axis=2, keepdims=True)
    return PartColours(
        histograms / np.where(length > 0, length, 1), dict(zip(map(str, labels.index), row, strict=True)), level
    )


def _list_folders(root: Path) -> tuple[Path, ...]:
    """Where copies have the names: the official archive unpacks them beside the folder of the data set."""
    return root / "attributes" / "attributes.txt", root / "attributes.txt", root.parent / "attributes.txt"


def _read_names(path: Path) -> pd.Series:
    table = read_table(_find_file(path), {"attribute": parse_natural, "name": parse_string})
    if [*table.index] != [*range(1, len(table) + 1)]:
        raise UserError(f"{path} does not number its attributes from 1 in order: copy it again")
    return table.name.astype(str)


def _read_class_attributes(path: Path, attributes: int) -> np.ndarray:
    """Per cent of annotators by class and attribute; row k is of class k + 1."""
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
    """1 where an annotator saw the attribute; some lines of the official file have stray columns at their end."""
    table, place = np.zeros((len(image_ids), attributes)), {str(name): at for at, name in enumerate(image_ids)}
    seen = np.zeros(len(image_ids), dtype=bool)
    with _find_file(path).open("rb") as file:
        for at, line in enumerate(file, 1):
            try:
                image, attribute, present = line.decode("utf-8-sig").split(None, 3)[:3]
                column, value = range(attributes).index(int(attribute) - 1), parse_flag(present)
                if image in place:
                    table[place[image], column], seen[place[image]] = value, True
            except (ValueError, IndexError):
                if line.strip():
                    raise UserError(
                        f"{path}, line {at}: {line.strip()!r}: expected image, attribute of 1 to {attributes}, "
                        "is_present: copy it again"
                    ) from None
    if not seen.all():
        raise UserError(f"{path} says nothing of image {image_ids[int(seen.argmin())]}: copy it again")
    return table


def _find_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"no {path}: part agreement needs CUB's attributes; copy them there (make data-cub)")
    return path
