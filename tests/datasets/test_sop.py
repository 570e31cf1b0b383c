import logging
from pathlib import Path

import PIL.Image
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.sop import sop
from tests.paths import SHARED

PHOTOS = SHARED / "grocery_in_sop_layout"
real = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real grocery photos in ../shared/data")

HEADER = "image_id class_id super_class_id path"
ROWS = {
    "train": ["1 1 1 bicycle_final/111_0.JPG", "2 1 1 bicycle_final/111_1.JPG"],
    "test": ["59552 11319 12 toaster_final/222_0.JPG"],
}


def write(lists: Path, images: Path) -> None:
    """Write Ebay_{train,test}.txt into one folder and 30 x 20 pictures below another."""
    lists.mkdir(parents=True, exist_ok=True)
    for side, rows in ROWS.items():
        (lists / f"Ebay_{side}.txt").write_text("\n".join([HEADER, *rows]) + "\n")
        for row in rows:
            path = images / row.split()[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (30, 20)).save(path, format="JPEG")


@pytest.mark.parametrize("up", [False, True])
def test_stanford_layout(tmp_path: Path, up: bool, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "Stanford_Online_Products"
    write(home, home)
    with caplog.at_level(logging.WARNING):
        data = sop(tmp_path if up else home)
    assert (data.name, data.split_name, data.root) == ("sop", "zero-shot, official", home)
    assert dict(data.index.label) == {"1": 1, "2": 1, "59552": 11319}
    assert dict(data.index.split) == {"1": "train", "2": "train", "59552": "test"}
    assert list(data.index.class_name) == ["bicycle 1", "bicycle 1", "toaster 11319"]
    assert data.index.box.isna().all()
    assert data.sample("59552").masks == {}
    assert data.regions("1", "2", data.sample("1")) == {}
    assert "3 of 120053 images, 2 of 22634 classes" in caplog.text


@pytest.mark.parametrize("up", [False, True])
def test_online_products_layout(tmp_path: Path, up: bool) -> None:
    home = tmp_path / "online_products"
    write(home / "Info_Files", home / "images")
    data = sop(tmp_path if up else home)
    assert data.index.path["1"] == "images/bicycle_final/111_0.JPG"
    assert data.sample("1").image.shape == (3, 224, 224)


def test_another_set_keeps_its_own_name_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, tmp_path)
    with caplog.at_level(logging.WARNING):
        data = sop(tmp_path, name="grocery")
    assert data.name == "grocery"
    assert not caplog.records


def test_no_image_level_split(tmp_path: Path) -> None:
    write(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"Stanford Online Products at .* has no image-level split"):
        sop(tmp_path, split="closed_set")


def test_paths_stay_inside(tmp_path: Path) -> None:
    write(tmp_path, tmp_path)
    (tmp_path / "Ebay_test.txt").write_text(f"{HEADER}\n7 7 7 ../x.JPG\n")
    with pytest.raises(UserError, match="leads out of"):
        sop(tmp_path)


def test_one_list_is_not_enough(tmp_path: Path) -> None:
    write(tmp_path, tmp_path)
    (tmp_path / "Ebay_test.txt").unlink()
    with pytest.raises(UserError, match=r"expected Ebay_train\.txt and Ebay_test\.txt .* run make data-sop"):
        sop(tmp_path)


@real
def test_real_photos(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = sop(PHOTOS, name="grocery")
    assert not caplog.records
    assert (data.name, data.split_name) == ("grocery", "zero-shot, official")
    assert (len(data.index), data.index.label.nunique()) == (378, 54)
    assert dict(data.index.groupby("split").label.nunique()) == {"train": 27, "test": 27}
    assert data.sample("190").image.shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (ROWS["test"], r"Ebay_test\.txt, line 1: .* is no header of columns"),
        (["image_id class_id path", *ROWS["test"]], r"Ebay_test\.txt, line 1: .* is no header"),
        ([HEADER, "59552 1 12 toaster_final/222_0.JPG"], "share 1 class ids, such as 1"),
        ([HEADER], r"none of the 0 images of .*Ebay_test\.txt"),
        ([HEADER, "59552 11319 12 to"], r"none of the 1 images of .*Ebay_test\.txt"),
        ([HEADER, "1 11319 12 toaster_final/222_0.JPG"], "names image '1' twice"),
        ([HEADER, "59552 11319 toaster_final/222_0.JPG"], "line 2: super_class_id is 'toaster"),
        ([HEADER, "59552 99999 12 toaster_final/222_0.JPG"], "is 99999: expected a class id of 1 to 22634"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, test: list[str], says: str) -> None:
    write(tmp_path, tmp_path)
    (tmp_path / "Ebay_test.txt").write_text("\n".join(test) + "\n")
    with pytest.raises(UserError, match=says):
        sop(tmp_path)


def test_the_header_decides_the_order_of_columns(tmp_path: Path) -> None:
    write(tmp_path, tmp_path)
    expected = sop(tmp_path).index
    (tmp_path / "Ebay_test.txt").write_text(
        "image_id super_class_id class_id path\r\n59552 12 11319 toaster_final/222_0.JPG"
    )
    assert sop(tmp_path).index.equals(expected)
