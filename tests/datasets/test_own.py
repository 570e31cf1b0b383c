import json
from pathlib import Path

import PIL.Image
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.base import roles, split_hash
from sfam_bench.datasets.geometry import Geometry
from sfam_bench.datasets.own import from_csv, from_folder

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
    data = from_csv(root / "df.csv", root, Geometry(None, 20))
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
    assert from_csv(root / "df.csv", root).index.box.isna().all()


def test_shared_classes_are_named_closed_set(root: Path) -> None:
    (root / "df.csv").write_text(TABLE.replace("9,sub", "7,sub"))
    assert from_csv(root / "df.csv", root).split_name == "closed-set, of df.csv"


def test_full_paths_below_root(root: Path) -> None:
    (root / "df.csv").write_text(TABLE.replace("a.jpg", str(root / "a.jpg")))
    assert from_csv(root / "df.csv", root).index.path.iloc[0] == "a.jpg"


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg"])
def test_paths_stay_inside(root: Path, path: str) -> None:
    (root / "df.csv").write_text(TABLE.replace("a.jpg", path))
    with pytest.raises(UserError, match="leads out of"):
        from_csv(root / "df.csv", root)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("is_query,", "query,", "lacks the column is_query: add it, or remove is_gallery"),
        ("validation", "tset", "line 4: split is 'tset': expected train, validation, test"),
        ("9,sub", ",sub", "line 4: label is empty"),
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
        from_csv(root / "df.csv", root)


def test_absent(root: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.csv"):
        from_csv(root / "none.csv", root)


def test_roles_are_kept(root: Path) -> None:
    table = TABLE.replace("9,sub/c.jpg,validation,True,True", "9,sub/c.jpg,validation,True,False")
    (root / "df.csv").write_text(table)
    first = from_csv(root / "df.csv", root)
    assert [role.tolist() for role in roles(first.index)] == [[True, True, True], [True, True, False]]
    (root / "df.csv").write_text(TABLE)
    assert split_hash(from_csv(root / "df.csv", root).index) != split_hash(first.index)


def test_byte_order_mark_and_crlf(root: Path) -> None:
    expected = from_csv(root / "df.csv", root).index
    (root / "df.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    assert from_csv(root / "df.csv", root).index.equals(expected)


def write(root: Path, *lines: str) -> Path:
    (root / "own.csv").write_text("\n".join(lines))
    return root / "own.csv"


def test_labels_are_text_and_other_columns_optional(root: Path) -> None:
    index = from_csv(write(root, "path,label", "a.jpg,wren", "sub/b.jpg,jay", "sub/c.jpg,wren"), root).index
    assert list(index.label) == [1, 0, 1]
    assert list(index.class_name) == ["wren", "jay", "wren"]
    assert set(index.split) == {"test"}
    assert all(role.all() for role in roles(index))


def test_columns_that_are_not_used_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    from_csv(write(root, "path,label", "a.jpg,wren"), root)
    assert "not used" not in caplog.text
    from_csv(write(root, "path,lable,Split", "a.jpg,wren,test"), root)
    assert "own.csv: columns that are not used: lable, Split" in caplog.text


def test_masks_that_are_absent_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    PIL.Image.new("L", (30, 20), 255).save(root / "m.png")
    data = from_csv(write(root, "path,mask", "a.jpg,./m.png", "sub/b.jpg,"), root)
    assert "masks are absent" not in caplog.text
    assert "1 images have no mask" in caplog.text
    assert data.sample("a.jpg").masks["foreground"].any()
    from_csv(write(root, "path,mask", "a.jpg,none/0.png", "sub/b.jpg,none/1.png"), root)
    assert "2 of its masks are absent, such as none/0.png; boxes serve, where known" in caplog.text


def test_keypoints_outside_their_image_are_refused(root: Path) -> None:
    header = "path,part_beak_x,part_beak_y,part_beak_visible"
    data = from_csv(write(root, header, "a.jpg,33,-3,true", "sub/b.jpg,9,33.1,true", "sub/c.jpg,900,9,false"), root)
    data.sample("a.jpg")
    data.sample("sub/c.jpg")
    with pytest.raises(UserError, match=r"a keypoint of .*b.jpg is at \(9, 33.1\) and its image 30 x 20: give"):
        data.sample("sub/b.jpg")


def test_without_labels_each_image_is_a_class(root: Path) -> None:
    data = from_csv(write(root, "path", "a.jpg", "sub/b.jpg"), root)
    assert list(data.index.label) == [0, 1]
    assert list(data.index.class_name) == ["a.jpg", "sub/b.jpg"]
    assert data.split_name == "unlabelled, of own.csv"


def test_validation_is_a_side_of_its_own_beside_test_rows(root: Path) -> None:
    lines = ("path,label,split", "a.jpg,1,train", "sub/b.jpg,2,validation", "sub/c.jpg,3,test")
    data = from_csv(write(root, *lines), root)
    assert list(data.index.split) == ["train", "validation", "test"]


def test_masks_and_parts(root: Path) -> None:
    mask = PIL.Image.new("L", (30, 20))
    mask.paste(255, (0, 0, 10, 20))
    mask.save(root / "mask.png")
    header = "path,mask,part_beak_x,part_beak_y,part_tail_x,part_tail_y,part_tail_visible"
    lines = (header, "a.jpg,mask.png,3,4,9,9,false", "sub/b.jpg,,,,9,9,true")
    data = from_csv(write(root, *lines), root, Geometry(None, 30))
    sample = data.sample("a.jpg")
    assert sample.masks["foreground"].sum() == 10 * 20
    assert sample.keypoints is not None
    assert sample.keypoints.tolist() == [[3, 4 + 5, 1], [0, 0, 0]]  # padded by five rows
    assert data.sample("sub/b.jpg").keypoints.tolist() == [[0, 0, 0], [9, 9 + 5, 1]]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("path,part_beak_x", "has the column part_beak_x but not part_beak_y: add it"),
        ("path,part_beak_x,part_beak_y", "line 2: part beak needs x and y"),
        ("path,mask", "leads out of"),
    ],
)
def test_malformed_marks(root: Path, header: str, says: str) -> None:
    cells = {"part_beak_x": "3", "part_beak_y": "", "mask": "../m.png", "path": "a.jpg"}
    with pytest.raises(UserError, match=says):
        from_csv(write(root, header, ",".join(cells[name] for name in header.split(","))), root)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "sub/b.jpg"}],
    "annotations": [{"image_id": 1, "bbox": [1, 2, 4, 4]}, {"image_id": 1, "bbox": [3, 2, 10, 5]}],
}


def test_coco_boxes_take_the_largest(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "coco.json").write_text(json.dumps(COCO))
    data = from_csv(write(root, "path", "./a.jpg", "sub/b.jpg"), root, boxes=root / "coco.json")
    assert data.index.box["a.jpg"] == (3, 2, 13, 7)
    assert data.index.box["sub/b.jpg"] is None
    assert "1 images have several boxes; the largest is used" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot read .*coco.json"),
        ("[]", "is no COCO file"),
        (json.dumps({**COCO, "images": []}), "is no COCO file .KeyError: 1"),
        (json.dumps({**COCO, "annotations": []}), "has a box of none of 1 images, such as a.jpg"),
        (json.dumps({**COCO, "annotations": [{"image_id": 1, "bbox": [1, 2]}]}), "cannot read"),
    ],
)
def test_malformed_coco(root: Path, content: str, says: str) -> None:
    (root / "coco.json").write_text(content)
    with pytest.raises(UserError, match=says):
        from_csv(write(root, "path", "a.jpg"), root, boxes=root / "coco.json")


def test_class_folders(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "wren").mkdir()
    (root / "wren" / "d.PNG").write_bytes((root / "a.jpg").read_bytes())
    data = from_folder(root)
    assert list(data.index.class_name) == ["sub", "sub", "wren"]
    assert list(data.index.label) == [0, 0, 1]
    assert data.sample("wren/d.PNG").image.shape == (3, 224, 224)
    assert "1 pictures are not used, such as a.jpg: only those in class folders, as .bmp, .jpeg" in caplog.text
    assert dict(from_folder(root, split="zero_shot").index.split) == {
        "sub/b.jpg": "train",
        "sub/c.jpg": "train",
        "wren/d.PNG": "test",
    }


def test_loose_images_are_unlabelled(root: Path) -> None:
    data = from_folder(root / "sub", name="mine")
    assert (data.name, data.split_name) == ("mine", "unlabelled, none, all images are test images")
    assert list(data.index.label) == [0, 1]


def test_pictures_of_other_types_and_deeper_folders_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    from_folder(root / "sub")
    assert "not used" not in caplog.text
    (root / "sub" / "._b.jpg").write_text("what macOS leaves")
    (root / "sub" / "wren").mkdir()
    PIL.Image.new("RGB", (30, 20)).save(root / "sub" / "wren" / "e.tif")
    from_folder(root / "sub")
    assert "1 pictures are not used, such as wren/e.tif: only those in the folder itself, as .bmp" in caplog.text
    with pytest.raises(UserError, match=r"no images in .* \(.bmp, .*\), such as e.tif: set dataset.root"):
        from_folder(root / "sub" / "wren")


@pytest.mark.parametrize(("place", "says"), [("empty", "no images in"), ("nowhere", "cannot read the folder")])
def test_no_images(root: Path, place: str, says: str) -> None:
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=says):
        from_folder(root / place)
