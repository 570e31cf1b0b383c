"""CUB's attributes, out of planted files: per class, per image with the official file's stray columns, and broken."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.attributes import GROUPS, part_colours
from sfam_bench.datasets.cub import cub

COLOURS = ("black", "red", "white")
BEAK, EYES, CROWN = 1, (6, 10), 4
# in another order than the parts, with attributes that are no colour of a part among them
NAMES = [
    "has_bill_shape::cone",
    *(f"has_{group}_color::{colour}" for group in sorted(set(GROUPS)) for colour in COLOURS),
    "has_primary_color::red",
]
LABELS = pd.Series({"7": 1, "8": 3, "11": 3})


def column(group: str, colour: str) -> int:
    return NAMES.index(f"has_{group}_color::{colour}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes; every part of each is black, but for the bill: red and white, red, then unknown."""
    table = np.zeros((3, len(NAMES)))
    table[:, 0] = 100
    for group in set(GROUPS):
        table[:, column(group, "black")] = 50
    table[:, column("bill", "black")] = 0
    table[0, [column("bill", "red"), column("bill", "white")]] = (30.0, 40.0)
    table[1, column("bill", "red")] = 80
    folder = tmp_path / "attributes"
    folder.mkdir()
    (folder / "attributes.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(NAMES)))
    (folder / "class_attribute_labels_continuous.txt").write_text(
        "\n".join(" ".join(map(str, row)) for row in table) + "\n"
    )
    return tmp_path


def by_image(root: Path, lines: list[str]) -> None:
    (root / "attributes" / "image_attribute_labels.txt").write_text("\n".join(lines) + "\n")


def test_classes_are_rows_of_the_table(root: Path) -> None:
    colours = part_colours(root, pd.Series({"7": 1, "8": 2, "11": 1}))
    assert colours.level == "class"
    assert colours.histograms[colours.row["7"], BEAK].tolist() == pytest.approx([0, 0.6, 0.8])
    alike = colours.agreement("8", ["7", "11", "8"])
    assert alike.shape == (3, 15)
    assert alike[:, BEAK] == pytest.approx([0.6, 0.6, 1])
    assert np.delete(alike, BEAK, axis=1) == pytest.approx(1)


def test_what_either_bird_lacks_is_nan(root: Path) -> None:
    alike = part_colours(root, LABELS).agreement("7", ["8", "7"])
    assert np.isnan(alike[0, BEAK])
    assert np.isnan(alike).sum() == 1


def test_images_go_before_classes_and_stray_columns_are_ignored(root: Path) -> None:
    red, white, eye = column("bill", "red") + 1, column("bill", "white") + 1, column("eye", "black") + 1
    by_image(
        root,
        [
            f"7 {red} 1 3 27.7",
            f"7 {white} 0 4 1.2",
            f"7 {eye} 1 4 5.0 0 9",  # as in lines of the official file
            f"8  {red} 1 1 2.9",
            f"11 {white} 1 3 1.0",
            f"999 {red} 1 3 1.0",  # an image that is not there
        ],
    )
    colours = part_colours(root, LABELS)
    assert colours.level == "image"
    alike = colours.agreement("7", ["8", "11"])  # both of class 3
    assert alike[:, BEAK].tolist() == [1, 0]
    assert np.isnan(alike[:, EYES]).all()  # known of the query alone
    assert part_colours(root, LABELS, "class").level == "class"


def test_both_eyes_share_their_colour(root: Path) -> None:
    by_image(root, [f"7 {column('eye', 'red') + 1} 1 3 1.0", f"8 {column('eye', 'red') + 1} 1 3 1.0", "11 1 0 3"])
    alike = part_colours(root, LABELS).agreement("7", ["8"])
    assert np.flatnonzero(np.isfinite(alike[0])).tolist() == list(EYES)


@pytest.mark.parametrize("place", ["attributes.txt", "../attributes.txt"])
def test_names_where_the_official_archive_puts_them(root: Path, place: str) -> None:
    home = root / "CUB_200_2011"
    home.mkdir()
    (root / "attributes").rename(home / "attributes")
    (home / "attributes" / "attributes.txt").rename(home / place)
    assert part_colours(home, LABELS).level == "class"


@pytest.mark.parametrize(
    ("name", "level", "words"),
    [
        ("attributes.txt", "auto", "make data-cub"),
        ("class_attribute_labels_continuous.txt", "auto", "make data-cub"),
        ("image_attribute_labels.txt", "image", "make data-cub"),
    ],
)
def test_missing_files(root: Path, name: str, level: str, words: str) -> None:
    (root / "attributes" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=f"no .*{name}: .*{words}"):
        part_colours(root, LABELS, level)


@pytest.mark.parametrize("change", ["narrow", "ragged", "nan", "text", "empty"])
def test_a_broken_class_table_is_refused(root: Path, change: str) -> None:
    path = root / "attributes" / "class_attribute_labels_continuous.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    rows = {
        "narrow": [row[:-1] for row in rows],
        "ragged": [rows[0][:-1], *rows[1:]],
        "nan": [["nan", *rows[0][1:]], *rows[1:]],
        "text": [["x", *rows[0][1:]], *rows[1:]],
        "empty": [],
    }[change]
    path.write_text("\n".join(" ".join(row) for row in rows))
    says = {
        "narrow": rf", line 1: {len(NAMES) - 1} cells, expected {len(NAMES)}",
        "ragged": rf", line 1: {len(NAMES) - 1} cells, expected {len(NAMES)}",
        "nan": ", line 1: expected a finite number",
        "text": ", line 1: expected a finite number",
        "empty": " is empty",
    }[change]
    with pytest.raises(UserError, match=path.name + says):
        part_colours(root, LABELS)


@pytest.mark.parametrize("line", ["7 3", "7 x 1", "7 9999 1", "7 0 1", "7 3 yes", "7 3 2"])
def test_a_broken_image_table_is_refused(root: Path, line: str) -> None:
    by_image(root, [f"7 {column('bill', 'red') + 1} 1 3 1.0", line])
    with pytest.raises(UserError, match=f"txt, line 2: b'{line}': expected image, attribute of 1 to"):
        part_colours(root, LABELS)


def test_a_class_beyond_the_table_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="describes 3 classes, and there is a class 4"):
        part_colours(root, pd.Series({"7": 4}))


def test_an_image_without_a_line_is_refused(root: Path) -> None:
    by_image(root, ["7 1 0 3", "8 1 0 3"])
    with pytest.raises(UserError, match="has no line for image 11"):
        part_colours(root, LABELS)


def test_a_class_of_number_0_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="there is a class 0"):
        part_colours(root, pd.Series({"7": 0, "8": 2}))


def test_names_out_of_order_are_refused(root: Path) -> None:
    path = root / "attributes" / "attributes.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    with pytest.raises(UserError, match="does not number its attributes from 1 in order"):
        part_colours(root, LABELS)


def test_names_without_a_part_are_refused(root: Path) -> None:
    path = root / "attributes" / "attributes.txt"
    path.write_text(path.read_text().replace("has_throat_color", "has_neck_color"))
    with pytest.raises(UserError, match="name no colour of the throat"):
        part_colours(root, LABELS)


def test_the_real_table(shared_data: Path) -> None:
    data = cub(shared_data / "CUB_200_2011")
    colours = part_colours(data.root, data.index.label)
    assert colours.level == "class"
    assert colours.histograms.shape == (200, 15, 15)
    lengths = np.linalg.norm(colours.histograms, axis=2)
    np.testing.assert_allclose(lengths[lengths > 0], 1)

    def first(name: str) -> str:
        return str(data.index.index[data.index.class_name == name][0])

    albatross, sooty, bobolink = map(first, ("Black footed Albatross", "Sooty Albatross", "Bobolink"))
    near, far = colours.agreement(albatross, [sooty, bobolink])
    assert near[14] > 0.7 > 0.5 > far[14]
