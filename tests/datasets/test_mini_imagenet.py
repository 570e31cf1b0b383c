from pathlib import Path

import PIL.Image
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.mini_imagenet import mini_imagenet

ROWS = {"train": "n02", "val": "n01", "test": "n03"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for side, label in ROWS.items():
        names = [f"{label}{k:08d}.jpg" for k in range(2)]
        (tmp_path / f"{side}.csv").write_text("\n".join(["filename,label", *(f"{name},{label}" for name in names)]))
        for name in names:
            PIL.Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


def test_the_files_are_the_split(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = mini_imagenet(root).index
    assert dict(zip(index.class_name, index.split, strict=True)) == {"n02": "train", "n01": "validation", "n03": "test"}
    assert dict(zip(index.class_name, index.label, strict=True)) == {"n01": 1, "n02": 2, "n03": 3}
    assert index.path.iloc[0] == "images/n0200000000.jpg"
    assert "6 of 60000 images, 3 of 100 classes" in caplog.text


def test_an_absent_file_and_a_shared_class_are_refused(root: Path) -> None:
    (root / "val.csv").write_text("filename,label\nother.jpg,n02")
    with pytest.raises(UserError, match="the CSVs share the class n02"):
        mini_imagenet(root)
    (root / "val.csv").unlink()
    with pytest.raises(UserError, match=r"expected train.csv, val.csv, test.csv and images"):
        mini_imagenet(root)
