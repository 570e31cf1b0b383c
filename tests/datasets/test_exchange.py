from pathlib import Path

import pandas as pd
import PIL.Image
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.base import roles, split_hash
from sfam_bench.datasets.exchange import read_oml, write_oml

TABLE = """label,path,split,is_query,is_gallery,x_1,x_2,y_1,y_2
7,a.jpg,train,,,3,13,2,7
7,sub/b.jpg,train,,,,,,
9,sub/c.jpg,validation,True,True,0,30,0,20
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg", "sub/c.jpg"):
        PIL.Image.new("RGB", (30, 20)).save(tmp_path / name)
    (tmp_path / "df.csv").write_text(TABLE)
    return tmp_path


def test_read(root: Path) -> None:
    data = read_oml(root / "df.csv", root, Geometry(None, 20))
    assert (data.name, data.split_name) == ("df", "zero-shot, of df.csv")
    assert dict(data.index.label) == {"a.jpg": 7, "sub/b.jpg": 7, "sub/c.jpg": 9}
    assert list(data.index.split) == ["train", "train", "test"]
    assert list(data.index.class_name) == ["7", "7", "9"]
    assert data.index.box["a.jpg"] == (3.0, 2.0, 13.0, 7.0)
    assert data.index.box["sub/b.jpg"] is None
    assert data.sample("a.jpg").masks["foreground"].sum() == 8 * 5
    assert data.sample("sub/b.jpg").masks == {}


def test_without_boxes(root: Path) -> None:
    (root / "df.csv").write_text(
        "label,path,split,is_query,is_gallery\n1,a.jpg,train,,\n2,./sub/b.jpg,validation,True,True\n"
    )
    assert read_oml(root / "df.csv", root).index.box.isna().all()


def test_shared_classes_are_named_closed_set(root: Path) -> None:
    (root / "df.csv").write_text(TABLE.replace("9,sub", "7,sub"))
    assert read_oml(root / "df.csv", root).split_name == "closed-set, of df.csv"


def test_round_trip(root: Path) -> None:
    first = read_oml(root / "df.csv", root)
    write_oml(first, root / "new/out.csv")
    second = read_oml(root / "new/out.csv", root)
    assert split_hash(first.index) == split_hash(second.index)
    assert list(first.index.box) == list(second.index.box)
    assert list(first.index.path) == list(second.index.path)


def test_written_as_open_metric_learning_wants_it(root: Path) -> None:
    write_oml(read_oml(root / "df.csv", root), root / "out.csv")
    assert (root / "out.csv").read_text().splitlines() == [
        "image_id,label,path,class_name,split,is_query,is_gallery,x_1,y_1,x_2,y_2",
        "a.jpg,7,a.jpg,7,train,,,3,2,13,7",
        "sub/b.jpg,7,sub/b.jpg,7,train,,,,,,",
        "sub/c.jpg,9,sub/c.jpg,9,validation,True,True,0,0,30,20",
    ]


def test_full_paths_below_root(root: Path) -> None:
    (root / "df.csv").write_text(TABLE.replace("a.jpg", str(root / "a.jpg")))
    assert read_oml(root / "df.csv", root).index.path.iloc[0] == "a.jpg"


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg"])
def test_paths_stay_inside(root: Path, path: str) -> None:
    (root / "df.csv").write_text(TABLE.replace("a.jpg", path))
    with pytest.raises(UserError, match="leads out of"):
        read_oml(root / "df.csv", root)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("is_query,", "query,", "lacks the columns is_query"),
        ("validation", "test", "line 4: split is 'test': expected train or validation"),
        ("9,sub", "nine,sub", "line 4: label is 'nine': expected an integer"),
        ("9,sub", "-9,sub", "line 4: label is '-9'"),
        ("9,sub", ",sub", "line 4: label is ''"),
        ("sub/c.jpg", "", "line 4: path is ''"),
        ("sub/c.jpg", "a.jpg", "names image 'a.jpg' twice"),
        ("True,True", ",True", "line 4: is_query is empty"),
        ("True,True", "yes,True", "line 4: is_query is 'yes': expected True or False"),
        ("0,30,0", "30,0,0", "the box of image 'sub/c.jpg'"),
        ("0,30,0", ",30,0", "line 4: a box needs x_1, y_1, x_2, y_2"),
        ("0,30,0", "nan,30,0", "line 4: x_1 is 'nan'"),
        ("0,30,0", "0,30px,0", "line 4: x_2 is '30px'"),
        (",0,30,0,20", ",0,30,0", "line 4: expected 9 cells"),
        ("label,path", "label,label", "line 1: names the column 'label' twice"),
    ],
)
def test_malformed(root: Path, old: str, new: str, says: str) -> None:
    (root / "df.csv").write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=says):
        read_oml(root / "df.csv", root)


def test_absent(root: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.csv"):
        read_oml(root / "none.csv", root)


def test_empty_values_read_as_missing(root: Path) -> None:
    write_oml(read_oml(root / "df.csv", root), root / "out.csv")
    table = pd.read_csv(root / "out.csv")
    assert table.is_query.isna().tolist() == [True, True, False]


def test_roles_are_kept(root: Path) -> None:
    table = TABLE.replace("9,sub/c.jpg,validation,True,True", "9,sub/c.jpg,validation,True,False")
    (root / "df.csv").write_text(table)
    first = read_oml(root / "df.csv", root)
    assert [role.tolist() for role in roles(first.index)] == [[True, True, True], [True, True, False]]
    write_oml(first, root / "out.csv")
    second = read_oml(root / "out.csv", root)
    assert split_hash(first.index) == split_hash(second.index)
    (root / "df.csv").write_text(TABLE)
    assert split_hash(read_oml(root / "df.csv", root).index) != split_hash(first.index)


def test_byte_order_mark_and_crlf(root: Path) -> None:
    expected = read_oml(root / "df.csv", root).index
    (root / "df.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    assert read_oml(root / "df.csv", root).index.equals(expected)
