import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.cub import cub
from tests.paths import SHARED

real = pytest.mark.skipif(not (SHARED / "CUB_200_2011").is_dir(), reason="no real CUB photos in ../shared/data")

PHOTOS = {  # official id: class folder / file
    "4": "001.Black_footed_Albatross/Black_Footed_Albatross_0001_1.jpg",
    "9": "001.Black_footed_Albatross/Black_Footed_Albatross_0002_2.jpg",
    "11788": "200.Common_Yellowthroat/Common_Yellowthroat_0003_3.jpg",
}


def images(folder: Path, photos: list[str]) -> None:
    """Write a 30 x 20 picture for each path."""
    for photo in photos:
        (folder / photo).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (30, 20), (10, 200, 30)).save(folder / photo)


def lines_of(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the lines of a file."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Three images of classes 1 and 200 with every official file; ids are not contiguous."""
    home = tmp_path / "CUB_200_2011"
    images(home / "images", list(PHOTOS.values()))
    files = {
        "images.txt": [f"{i} {path}" for i, path in PHOTOS.items()],
        "image_class_labels.txt": ["11788 200", "4 1", "9 1"],  # in another order
        "classes.txt": ["1 001.Black_footed_Albatross", "200 200.Common_Yellowthroat"],
        "bounding_boxes.txt": ["4 3.0 2.0 10.0 5.0", "9 20.0 10.0 12.0 11.0", "11788 0.0 0.0 30.0 20.0"],
        "train_test_split.txt": ["4 1", "9 0", "11788 1"],
        "parts/part_locs.txt": [f"{i} {part} {part}.5 2.0 {part % 2}" for i in PHOTOS for part in range(1, 16)],
    }
    (home / "parts").mkdir()
    for name, lines in files.items():
        (home / name).write_text("\n".join(lines) + "\n")
    return home


@pytest.mark.parametrize("up", [False, True])
def test_official(official: Path, up: bool) -> None:
    data = cub(official.parent if up else official, geometry=Geometry(None, 20))
    assert data.root == official
    assert (data.name, data.split_name) == ("cub", "zero-shot, official")
    assert dict(data.index.label) == {"4": 1, "9": 1, "11788": 200}
    assert dict(data.index.split) == {"4": "train", "9": "train", "11788": "test"}
    assert data.index.class_name["4"] == "Black footed Albatross"
    assert data.index.box["4"] == (3.0, 2.0, 13.0, 7.0)
    assert data.index.keypoints["4"].shape == (15, 3)
    assert data.index.keypoints["4"][2].tolist() == [3.5, 2.0, 1.0]
    assert data.index.mask_path.isna().all()

    sample = data.sample("9")  # the box reaches past both far edges by a pixel or two; the crop starts at x 5
    foreground = sample.masks["foreground"]
    assert foreground[10:, 15:].all()
    assert foreground.sum() == 10 * 5
    assert torch.equal(data.regions("9", "4", sample)["box"], foreground)
    assert sample.keypoints is not None
    assert sample.keypoints[6].tolist() == [2.5, 2.0, 1.0]  # part 7 at x 7.5
    assert sample.keypoints[2].tolist() == [0.0, 0.0, 0.0]  # part 3 at x 3.5 is cut off


def test_closed_set(official: Path) -> None:
    data = cub(official, split="closed_set")
    assert dict(data.index.split) == {"4": "train", "9": "test", "11788": "train"}
    assert data.split_name == "closed-set, official"


@pytest.mark.parametrize("inside", [False, True])
def test_segmentations_beside_or_inside(official: Path, inside: bool, caplog: pytest.LogCaptureFixture) -> None:
    cub(official)
    assert "no segmentations, for which boxes serve" in caplog.text
    masks = (official if inside else official.parent) / "segmentations"
    for photo in PHOTOS.values():
        levels = np.zeros((20, 30), dtype=np.uint8)
        levels[4:6, 7:9] = 255
        (masks / photo).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(levels).save((masks / photo).with_suffix(".png"))
    caplog.clear()
    data = cub(official, geometry=Geometry(None, 20))
    assert "no segmentations" not in caplog.text
    assert data.mask_root == masks.parent
    foreground = data.sample("4").masks["foreground"]
    assert foreground.nonzero().tolist() == [[4, 2], [4, 3], [5, 2], [5, 3]]
    assert data.sample("4").masks["box"].sum() == 8 * 5  # x 3 to 13 less the 5 that the crop takes, y 2 to 7


def test_files_beyond_the_first_two_are_optional(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("classes.txt", "bounding_boxes.txt", "train_test_split.txt", "parts/part_locs.txt"):
        (official / name).unlink()
    with caplog.at_level(logging.WARNING):
        data = cub(official)
    assert "no boxes and no parts and no segmentations" in caplog.text
    assert data.index.class_name["11788"] == "Common Yellowthroat"
    sample = data.sample("4")
    assert sample.masks == {}
    assert sample.keypoints is None
    with pytest.raises(UserError, match="no image-level split here"):
        cub(official, split="closed_set")


def test_partial_copy(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    (official / "images" / PHOTOS["11788"]).unlink()
    (official / "images" / PHOTOS["4"]).rename(official / "images/002.Laysan_Albatross.jpg")
    with pytest.raises(UserError, match="1 class here"):
        cub(official)
    assert "1 of 11788 images, 1 of 200 classes; 2 that its files name are absent" in caplog.text


@pytest.mark.parametrize("below", ["cub200/images", "images", ".", "CUB_200_2011/images"])
def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture, below: str) -> None:
    images(tmp_path / below, [*PHOTOS.values(), PHOTOS["4"].replace(".jpg", "_rgb.jpg")])
    (tmp_path / below / "001.Black_footed_Albatross/._x.jpg").write_text("what macOS leaves")
    with caplog.at_level(logging.WARNING):
        data = cub(tmp_path)
    assert dict(data.index.label) == {
        "Black_Footed_Albatross_0001_1": 1,
        "Black_Footed_Albatross_0002_2": 1,
        "Common_Yellowthroat_0003_3": 200,
    }
    assert data.split_name == "zero-shot, official"
    assert data.index.class_name.iloc[0] == "Black footed Albatross"
    assert "class folders only, no boxes and no parts and no segmentations" in caplog.text
    assert data.sample("Common_Yellowthroat_0003_3").masks == {}


@pytest.mark.parametrize("path", ["../../x.jpg", "/etc/x.jpg"])
def test_paths_in_images_txt_stay_inside(official: Path, path: str) -> None:
    (official / "images.txt").write_text(f"4 {path}\n9 {PHOTOS['9']}\n")
    with pytest.raises(UserError, match=r"images\.txt, line 1: .* leads out of"):
        cub(official)


def test_unlabelled_image(official: Path) -> None:
    (official / "image_class_labels.txt").write_text("4 1\n9 1\n")
    with pytest.raises(UserError, match=r"image_class_labels\.txt has no label for image 11788"):
        cub(official)


def test_malformed_file(official: Path) -> None:
    (official / "bounding_boxes.txt").write_text("4 a b c d\n")
    with pytest.raises(UserError, match=r"bounding_boxes\.txt, line 1: x is 'a': expected a finite number"):
        cub(official)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\n\n").encode(),
        lambda text: text.replace(" ", "\t").encode(),
        lambda text: text.replace("\n", "  \n").encode(),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "tabs", "blanks at the end"],
)
def test_other_ways_to_write_the_same(official: Path, encode: Callable[[str], bytes]) -> None:
    expected = cub(official).index
    for file in official.rglob("*.txt"):
        file.write_bytes(encode(file.read_text()))
    found = cub(official).index
    assert found.drop(columns="keypoints").equals(expected.drop(columns="keypoints"))
    assert all(map(np.array_equal, found.keypoints, expected.keypoints))


def test_latin_1_is_refused_with_its_line(official: Path) -> None:
    (official / "classes.txt").write_bytes("1 001.Black\n200 200.Gelbkehlchen-Männchen\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt, line 2: not UTF-8"):
        cub(official)


def test_class_names_and_paths_may_hold_blanks(official: Path) -> None:
    (official / "classes.txt").write_text("1 001.Black footed Albatross\n200 200.Common Yellowthroat\n")
    photo = official / "images" / PHOTOS["4"]
    photo.rename(photo.with_name("a bird.jpg"))
    lines_of(official / "images.txt", lambda lines: ["4 001.Black_footed_Albatross/a bird.jpg", *lines[1:]])
    index = cub(official).index
    assert index.class_name["4"] == "Black footed Albatross"
    assert index.path["4"].endswith("/a bird.jpg")


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "image_class_labels.txt",
            lambda lines: ["11788 199", "4 0", "9 0"],
            r"label of image '4' .* is 0: expected a class",
        ),
        ("image_class_labels.txt", lambda lines: ["11788 200", "4 2", "9 2"], "has the label 2 and lies in images/001"),
        ("image_class_labels.txt", lambda lines: ["11788 200", "4 -1", "9 1"], "line 2: label is '-1'"),
        ("image_class_labels.txt", lambda lines: ["11788 200", "4 1.5", "9 1"], "line 2: label is '1.5'"),
        ("image_class_labels.txt", lambda lines: [*lines, "4 200"], r"line 4: image_id '4' is on line 2 already"),
        ("images.txt", lambda lines: [*lines, lines[0]], "line 4: image_id '4' is on line 1 already"),
        ("images.txt", lambda lines: [*lines, "5 " + lines[0][2:]], "has no label for image 5"),
        ("images.txt", lambda lines: [line.replace(" ", ",") for line in lines], "line 1: path is absent"),
        ("images.txt", lambda lines: [], r"images\.txt is empty"),
        ("train_test_split.txt", lambda lines: lines[:2], "has no train for image 11788"),
        ("train_test_split.txt", lambda lines: ["4 2", *lines[1:]], "line 1: train is '2': expected True or False"),
        ("bounding_boxes.txt", lambda lines: ["4 3 2 -10 5"], "the box of image '4' is"),
        ("bounding_boxes.txt", lambda lines: ["4 3 2 0 5"], "the box of image '4' is"),
        ("bounding_boxes.txt", lambda lines: ["4 nan 2 10 5"], "line 1: x is 'nan': expected a finite number"),
        ("bounding_boxes.txt", lambda lines: ["4 1_0 2 10 5"], "line 1: x is '1_0': expected a finite number"),
        ("bounding_boxes.txt", lambda lines: ["4 3 2 inf 5"], "line 1: width is 'inf'"),
        ("bounding_boxes.txt", lambda lines: ["4 -30 2 10 5"], "the box of image '4' is"),
        ("parts/part_locs.txt", lambda lines: ["4 0 1 1 1", *lines], "expected parts 1 to 15"),
        ("parts/part_locs.txt", lambda lines: ["4 999999999 1 1 1", *lines], "expected parts 1 to 15"),
        ("parts/part_locs.txt", lambda lines: lines[:-1], "expected parts 1 to 15"),
        ("parts/part_locs.txt", lambda lines: [*lines, lines[0]], "line 46: image_id '4' part 1 is on line 1 already"),
    ],
)
def test_what_is_wrong_is_refused(
    official: Path, file: str, change: Callable[[list[str]], list[str]], says: str
) -> None:
    lines_of(official / file, change)
    with pytest.raises(UserError, match=says):
        cub(official)


def test_numbered_from_zero_in_every_file(official: Path) -> None:
    """Classes of both lists less one: only the folders tell that class 101 would train."""
    lines_of(official / "image_class_labels.txt", lambda lines: ["11788 199", "4 1", "9 1"])
    lines_of(official / "classes.txt", lambda lines: ["1 001.Black_footed_Albatross", "199 200.Common_Yellowthroat"])
    with pytest.raises(UserError, match="label 199 and lies in images/200"):
        cub(official)


@pytest.mark.parametrize("box", ["20.0 10.0 25.0 25.0", "30.0 2.0 1.0 5.0", "400.0 2.0 30.0 5.0"])
def test_a_box_outside_of_its_image(official: Path, box: str) -> None:
    lines_of(official / "bounding_boxes.txt", lambda lines: [f"4 {box}"])
    with pytest.raises(UserError, match=r"the box of .*0001_1\.jpg is .* and its image 30 x 20"):
        cub(official).sample("4")


def test_a_box_past_the_edge_is_said(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    cub(official).sample("9")
    cub(official).sample("9")
    assert caplog.text.count("0002_2.jpg reaches 2 px past its image and is clipped") == 1


def test_images_without_box_are_counted(official: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines_of(official / "bounding_boxes.txt", lambda lines: lines[:2])
    cub(official)
    assert "1 images have no box" in caplog.text


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_there(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "data"
    if exists:
        images(root / "n01440764", ["x.jpg"])
    with pytest.raises(
        UserError, match=r"no CUB-200-2011 at .*/data: expected images\.txt or class folders such as 001"
    ):
        cub(root)


@real
def test_real_photos(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = cub(SHARED / "CUB_200_2011")
    assert (len(data.index), data.index.label.nunique()) == (840, 30)
    assert "840 of 11788 images, 30 of 200 classes" in caplog.text
    assert data.split_name == "zero-shot, halves of the 30 classes present"
    sides = data.index.groupby("split").label
    assert dict(sides.nunique()) == {"test": 15, "train": 15}
    assert sides.max()["train"] < sides.min()["test"]

    assert data.index.box["960"] == (27.0, 6.0, 175.0, 133.0)
    assert data.image("960").size == (177, 131)  # so the box ends two pixels below the image
    assert data.sample("960").masks["foreground"][-1].any()

    grey = data.index.index[data.index.path.str.contains("Pelagic_Cormorant_0022_23802")][0]
    image = data.sample(grey).image
    assert image.shape == (3, 224, 224)
    assert torch.equal(image[0], image[2])


@real
def test_real_closed_set() -> None:
    data = cub(SHARED / "CUB_200_2011", split="closed_set")
    assert dict(data.index.split.value_counts()) == {"train": 447, "test": 393}


@real
def test_real_annotations_without_images() -> None:
    with pytest.raises(UserError, match="none of its 2889 images is there"):
        cub(SHARED / "CUB_200_2011_annotations_full")
