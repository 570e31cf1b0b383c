import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy.io import savemat

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets import matlab
from sfam_bench.datasets.cars196 import cars196
from tests.paths import SHARED

PHOTOS = SHARED / "cars196"
real = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real car photos in ../shared/data")

NAMES = [f"Make {i} 2012" for i in range(1, 197)]
NAMES[0], NAMES[97], NAMES[98], NAMES[189] = "AM General 2000", "Eagle Talon 1998", "FIAT 500 2012", "Ram C/V Van 2012"
BOX = (4, 3, 13, 9)  # as MATLAB counts: from 1, the last pixel included
PYTHON_BOX = (3.0, 2.0, 13.0, 9.0)


def images(folder: Path, paths: list[str]) -> None:
    """Write a 30 x 20 picture for each path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (30, 20), (10, 200, 30)).save(folder / path)


def annotate(path: Path, file: str, rows: list[dict]) -> None:
    """Write rows as the official struct array; `file` names its column of paths."""
    keys = [f"bbox_{corner}" for corner in ("x1", "y1", "x2", "y2")]
    table = [
        dict(zip(keys, BOX, strict=True)) | {file if key == "file" else key: row[key] for key in row} for row in rows
    ]
    array = np.array([tuple(row.values()) for row in table], dtype=[(key, object) for key in table[0]])
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": array[None], "class_names": np.array(NAMES, dtype=object)[None]})


@pytest.fixture
def single(tmp_path: Path) -> Path:
    home = tmp_path / "cars196"
    images(home / "car_ims", ["000001.jpg", "000002.jpg", "016185.jpg"])
    rows = [("000001", 1, 0), ("000002", 98, 1), ("016185", 99, 0), ("016184", 196, 1)]
    annotate(
        home / "cars_annos.mat",
        "relative_im_path",
        [{"file": f"car_ims/{name}.jpg", "class": label, "test": test} for name, label, test in rows],
    )
    return home


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    images(tmp_path / "cars_train", ["00001.jpg", "00002.jpg"])
    images(tmp_path / "cars_test", ["00001.jpg"])
    rows = [{"class": 14, "file": "00001.jpg"}, {"class": 120, "file": "00002.jpg"}]
    annotate(tmp_path / "devkit/cars_train_annos.mat", "fname", rows)
    annotate(tmp_path / "devkit/cars_test_annos.mat", "fname", [{"file": "00001.jpg"}])
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": np.array(NAMES, dtype=object)[None]})
    return tmp_path


@pytest.mark.parametrize("up", [False, True])
def test_single_folder(single: Path, up: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = cars196(single.parent if up else single, geometry=Geometry(None, 20))
    assert dict(data.index.label) == {"000001": 1, "000002": 98, "016185": 99}
    assert dict(data.index.split) == {"000001": "train", "000002": "train", "016185": "test"}
    assert (data.name, data.split_name) == ("cars196", "zero-shot, official")
    assert data.index.class_name["000001"] == "AM General 2000"
    assert data.index.box["000001"] == PYTHON_BOX
    assert data.sample("000001").masks["foreground"].sum() == 8 * 7  # the crop starts at x 5: columns 0..7, rows 2..8
    assert "3 of 16185 images, 3 of 196 classes; 1 that its files name are absent" in caplog.text


def test_single_folder_closed_set(single: Path) -> None:
    split = cars196(single, split="closed_set").index.split
    assert dict(split) == {"000001": "train", "000002": "test", "016185": "train"}


def test_devkit_without_test_labels(devkit: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = cars196(devkit)
    assert dict(data.index.label) == {"train/00001": 14, "train/00002": 120}
    assert dict(data.index.split) == {"train/00001": "train", "train/00002": "test"}
    assert data.index.path["train/00001"] == "cars_train/00001.jpg"
    assert data.index.class_name["train/00001"] == "Make 14 2012"
    assert data.index.box["train/00001"] == PYTHON_BOX
    said = "1 images of cars_test skipped, as cars_test_annos_withlabels.mat is missing"
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("where", [".", "devkit"])
def test_devkit_with_test_labels(devkit: Path, where: str) -> None:
    annotate(devkit / where / "cars_test_annos_withlabels.mat", "fname", [{"class": 3, "file": "00001.jpg"}])
    data = cars196(devkit)
    assert data.index.label["test/00001"] == 3
    assert data.index.split["test/00001"] == "train"
    assert cars196(devkit, split="closed_set").index.split["test/00001"] == "test"


def test_devkit_nested_as_on_kaggle(devkit: Path) -> None:
    (devkit / "cars_train").rename(devkit / "aside")
    (devkit / "cars_train").mkdir()
    (devkit / "aside").rename(devkit / "cars_train/cars_train")
    data = cars196(devkit)
    assert data.index.path["train/00001"] == "cars_train/cars_train/00001.jpg"
    assert data.sample("train/00001").image.shape == (3, 224, 224)


def test_devkit_without_labels(devkit: Path) -> None:
    (devkit / "devkit/cars_train_annos.mat").unlink()
    with pytest.raises(UserError, match=r"devkit labels no image: put cars_train_annos\.mat there"):
        cars196(devkit)


def test_devkit_broken(devkit: Path) -> None:
    (devkit / "devkit/cars_train_annos.mat").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"cannot read annotations in .*cars_train_annos\.mat"):
        cars196(devkit)


@pytest.mark.parametrize("damage", ["crash", "hang", "cut"])
def test_a_damaged_mat_file_is_one_line(devkit: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy crashes on some files: what reads them here crashes, or never ends."""
    path = devkit / "devkit/cars_train_annos.mat"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        reader = devkit / "reader.py"
        reader.write_text("import os\nos.kill(os.getpid(), 11)" if damage == "crash" else "import time\ntime.sleep(60)")
        monkeypatch.setattr(matlab, "READER", reader)
        monkeypatch.setattr(matlab, "SECONDS", 1)
    says = {"crash": r"\(SIGSEGV\)", "hang": "within 1 s", "cut": r"\(\w+: .*\)"}[damage]
    with pytest.raises(UserError, match=rf"cannot read \w+ in .*\.mat {says}: copy the file again"):
        cars196(devkit)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"class": -1, "file": "00001.jpg"}, "class of row 1 of annotations is -1: expected an integer"),
        ({"class": 1.5, "file": "00001.jpg"}, "class of row 1 of annotations is 1.5"),
        ({"class": 0, "file": "00001.jpg"}, "is 0: expected a class id of 1 to 196"),
        ({"class": 1, "file": "00001.jpg", "bbox_x1": 20}, "the box of image 'train/00001' is"),
        ({"class": 1, "file": "00001.jpg", "bbox_x2": np.nan}, "bbox_x2 of row 1 of annotations is nan"),
        ({"class": 1}, "lack fname"),
    ],
)
def test_annotations_are_checked(devkit: Path, row: dict, says: str) -> None:
    annotate(devkit / "devkit/cars_train_annos.mat", "fname", [row])
    with pytest.raises(UserError, match=says):
        cars196(devkit)


@pytest.mark.slow
def test_damaged_copies_of_the_official_file(devkit: Path) -> None:
    """A few of them, each with one byte changed: right, or refused in one line."""
    path = devkit / "devkit/cars_train_annos.mat"
    content, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, len(content), 2):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            cars196(devkit)
        except UserError as error:
            damage = str(error)
        else:
            damage = ""
        assert "\n" not in damage


def test_devkit_paths_stay_inside(devkit: Path) -> None:
    annotate(devkit / "devkit/cars_train_annos.mat", "fname", [{"class": 1, "file": "../../x.jpg"}])
    with pytest.raises(UserError, match="leads out of"):
        cars196(devkit)


@pytest.mark.parametrize("below", ["car_data/car_data", "car_data", "."])
def test_kaggle_by_side(tmp_path: Path, below: str, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / below, ["train/FIAT 500 2012/00001.jpg", "test/Eagle Talon 1998/00001.jpg"])
    with caplog.at_level(logging.WARNING):
        data = cars196(tmp_path)
    # without a list of names the ids are ranks, but the names still tell the official sides
    assert dict(data.index.label) == {"train/00001": 2, "test/00001": 1}
    assert dict(data.index.split) == {"train/00001": "test", "test/00001": "train"}
    assert data.sample("test/00001").masks == {}
    assert "class folders only, no boxes" in caplog.text
    assert dict(cars196(tmp_path, split="closed_set").index.split) == {"train/00001": "train", "test/00001": "test"}


def test_kaggle_with_its_tables(tmp_path: Path) -> None:
    images(tmp_path / "car_data/car_data", ["train/Ram C-V Van 2012/00001.jpg", "train/AM General 2000/00002.jpg"])
    (tmp_path / "names.csv").write_text("\n".join(NAMES))
    (tmp_path / "anno_train.csv").write_text("00001.jpg,4,3,13,9,190\n00002.jpg,1,1,30,20,1\n")
    data = cars196(tmp_path)
    assert dict(data.index.label) == {"train/00002": 1, "train/00001": 190}
    assert dict(data.index.split) == {"train/00002": "train", "train/00001": "test"}
    assert data.index.box["train/00001"] == PYTHON_BOX


@pytest.mark.parametrize("up", [False, True])
def test_class_folders(tmp_path: Path, up: bool) -> None:
    home = tmp_path / "cars196"
    images(home / "images", ["Eagle Talon 1998/a.jpg", "FIAT 500 2012/b.jpg", "Acura RL 2012/c.jpg"])
    data = cars196(tmp_path if up else home)
    assert dict(data.index.label) == {"Acura RL 2012/c.jpg": 1, "Eagle Talon 1998/a.jpg": 2, "FIAT 500 2012/b.jpg": 3}
    assert list(data.index.split) == ["train", "train", "test"]
    assert data.split_name == "zero-shot, official"


def test_halves_where_one_side_is_empty(tmp_path: Path) -> None:
    images(tmp_path / "images", ["Acura RL 2012/c.jpg", "BMW X5 2007/d.jpg"])
    data = cars196(tmp_path)
    assert data.split_name == "zero-shot, halves of the 2 classes present"
    assert list(data.index.split) == ["train", "test"]


def test_birds_are_not_cars(tmp_path: Path) -> None:
    images(tmp_path / "images", ["001.Black_footed_Albatross/x.jpg"])
    with pytest.raises(UserError, match=r"no Cars196 at .*: expected car_ims with"):
        cars196(tmp_path)


@real
@pytest.mark.parametrize(("copy", "images"), [("full_frame_lowres", 343), ("box_crops", 320)])
def test_real_photos(copy: str, images: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = cars196(PHOTOS / copy)
    assert (len(data.index), data.index.label.nunique()) == (images, 16)
    assert f"{images} of 16185 images, 16 of 196 classes" in caplog.text
    assert data.split_name == "zero-shot, official"
    assert dict(data.index.groupby("split").label.nunique()) == {"train": 8, "test": 8}
    assert data.index.label.loc["train/00007"] == 89
    assert data.index.class_name["train/00007"] == "Dodge Journey SUV 2012"
    width, height = data.image("train/00007").size
    x1, y1, x2, y2 = data.index.box["train/00007"]
    if copy == "box_crops":
        assert (x1, y1, x2, y2) == (0, 0, width, height)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    assert data.sample("train/00007").masks["foreground"].any()


@real
def test_real_names_tell_the_official_sides() -> None:
    from sfam_bench.datasets.cars196 import FIRST_TEST_NAME, _read_class_names

    names = matlab.read_mat(PHOTOS / "devkit_official/cars_meta.mat", "class_names")["value"]
    assert [name.lower() < FIRST_TEST_NAME for name in names] == [True] * 98 + [False] * 98
    assert _read_class_names(PHOTOS / "box_crops") == list(names)
