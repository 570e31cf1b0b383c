import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.datasets.folder import COLUMNS, Collection, ImageFolder, Layout, load, resolve_inside, select_existing
from sfam_bench.datasets.tables import parse_natural, parse_string, read_table

THINGS = Collection("Things", "things", "data-things")
WHOLE = Geometry(resize=None, crop=20)


def found(home: Path, paths: list[str], **columns: list) -> Layout:
    rows = pd.DataFrame({"path": paths, "label": range(len(paths)), "class_name": "thing", **columns})
    return Layout(home, rows.set_index(pd.Index([f"i{i}" for i in range(len(paths))])))


def folder(home: Path, paths: list[str], **columns: list) -> ImageFolder:
    return load(THINGS, [lambda home: found(home, paths, **columns)], [], home, "zero_shot", WHOLE, "things")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for mode, name in (
        ("RGB", "a.jpg"),
        ("L", "grey.jpg"),
        ("CMYK", "cmyk.jpg"),
        ("P", "palette.png"),
        ("RGBA", "d.png"),
    ):
        PIL.Image.new(mode, (30, 20), 200 if mode in "LP" else None).save(tmp_path / name)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:400])
    (tmp_path / "text.jpg").write_text("no image")
    return tmp_path


def test_it_is_a_dataset(home: Path) -> None:
    data = folder(home, ["a.jpg", "d.png"])
    assert isinstance(data, Dataset)
    assert tuple(data.index.columns) == COLUMNS
    assert data.index.index.name == "image_id"
    assert len(split_hash(data.index)) == 16


@pytest.mark.parametrize("name", ["a.jpg", "grey.jpg", "cmyk.jpg", "palette.png", "d.png"])
def test_every_mode_becomes_rgb(home: Path, name: str) -> None:
    sample = folder(home, [name, "cut.jpg"]).sample("i0")
    assert sample.image.shape == (3, 20, 20)
    assert sample.masks == {}


def test_grey_values_survive(home: Path) -> None:
    image = folder(home, ["grey.jpg", "a.jpg"]).sample("i0").image
    assert torch.allclose(image, torch.tensor(200 / 255), atol=0.01)


def test_regions_are_the_foreground_if_known(home: Path) -> None:
    data = folder(home, ["a.jpg", "d.png"], box=[(5.0, 0.0, 15.0, 20.0), None])
    known, unknown = data.sample("i0"), data.sample("i1")
    assert data.regions("i0", "i1", known)["foreground"][:, :10].all()
    assert data.regions("i0", "i1", known)["foreground"].sum() == 200
    assert data.regions("i0", "i1", known)["box"].sum() == 200
    assert data.regions("i1", "i0", unknown) == {}


def test_segmentation_wins_and_the_majority_of_annotators_decides(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    levels = np.zeros((20, 30), dtype=np.uint8)
    levels[:10], levels[10:] = 102, 153  # two and three of CUB's five annotators
    PIL.Image.fromarray(levels).save(home / "m.png")
    with caplog.at_level(logging.WARNING):
        data = folder(home, ["a.jpg", "d.png"], mask_path=["m.png", "absent.png"], box=[(0.0, 0.0, 30.0, 20.0)] * 2)
    assert "1 of its masks are absent, such as absent.png; boxes serve, where known" in caplog.text
    foreground = data.sample("i0").masks["foreground"]
    assert not foreground[:10].any()
    assert foreground[10:].all()
    assert data.sample("i1").masks["foreground"].all()
    regions = data.regions("i0", "i1", data.sample("i0"))
    assert regions["box"].all()
    assert torch.equal(regions["foreground"], foreground)


def test_segmentation_of_another_size(home: Path) -> None:
    PIL.Image.new("L", (20, 30)).save(home / "m.png")
    with pytest.raises(UserError, match=r"m\.png is \(20, 30\) and its image \(30, 20\)"):
        folder(home, ["a.jpg", "d.png"], mask_path=["m.png", None]).sample("i0")


@pytest.mark.parametrize("name", ["cut.jpg", "text.jpg"])
def test_broken_file(home: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"cannot read .*{name}.*copy it again, or delete it"):
        folder(home, [name, "a.jpg"]).sample("i0")


def test_file_gone_after_indexing(home: Path) -> None:
    data = folder(home, ["a.jpg", "d.png"])
    (home / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg is missing: check the path"):
        data.sample("i0")


def test_unknown_id(home: Path) -> None:
    with pytest.raises(UserError, match="no image 'i9' in things"):
        folder(home, ["a.jpg", "d.png"]).sample("i9")


def test_partial_copy_says_what_is_missing_in_one_line(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = folder(home, ["a.jpg", "sub/absent.jpg", "./d.png"])
    assert list(data.index.index) == ["i0", "i2"]
    first = caplog.records[0].getMessage()
    assert first == (
        f"Things at {home}: 2 of 3 images, 2 of 3 classes; 1 that its files name are absent, such as sub/absent.jpg"
    )


def test_complete_copy_is_silent(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    select_existing(THINGS, found(home, ["a.jpg", "d.png"]))
    assert not caplog.records


def test_nothing_there(home: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 1 images is there, such as b/c\.jpg; copy them"):
        folder(home, ["b/c.jpg"])


def test_no_layout_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Things at .*/nowhere: expected things; .* run make data-things"):
        load(THINGS, [lambda home: None], ["sub"], tmp_path / "nowhere", "zero_shot", WHOLE, "things")


def test_ids_are_unique(home: Path) -> None:
    rows = found(home, ["a.jpg", "d.png"]).rows.set_index(pd.Index(["x", "x"]))
    with pytest.raises(UserError, match="names image 'x' twice"):
        select_existing(THINGS, Layout(home, rows))


@pytest.mark.parametrize(
    "path", ["../a.jpg", "/etc/passwd", "b/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "C:a.jpg", "a\0.jpg"]
)
def test_paths_stay_inside(home: Path, path: str) -> None:
    with pytest.raises(UserError, match="leads out of"):
        resolve_inside(home, path)
    data = folder(home, ["a.jpg", "d.png"])
    data.index.loc["i0", "path"] = path
    with pytest.raises(UserError, match="leads out of"):
        data.sample("i0")


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/passwd", "b/../../a.jpg"])
def test_an_index_that_leads_out_is_refused(home: Path, path: str) -> None:
    with pytest.raises(UserError, match="leads out of"):
        folder(home, [path, "a.jpg"])


def test_links_stay_inside(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    PIL.Image.new("RGB", (30, 20)).save(outside / "x.jpg")
    (home / "way_out").symlink_to(outside)
    (home / "x.jpg").symlink_to(outside / "x.jpg")
    (home / "fine.jpg").symlink_to(home / "a.jpg")
    for path in ("way_out/x.jpg", "x.jpg"):
        with pytest.raises(UserError, match="is a link out of"):
            folder(home, [path, "a.jpg"])
    assert folder(home, ["fine.jpg", "a.jpg"]).sample("i0").image.shape == (3, 20, 20)


def test_a_linked_root_is_fine(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "data"
    link.symlink_to(home)
    assert len(folder(link, ["a.jpg", "d.png"]).index) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [("1 x 3\n2 y\n", "line 2: count is absent"), ("\none x 3\n", "line 2: id is 'one': expected an integer")],
)
def test_malformed_table(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(UserError, match=rf"t\.txt, {says}.*columns id, name, count"):
        read_table(tmp_path / "t.txt", {"id": parse_natural, "name": parse_string, "count": parse_natural})


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="copy it again"):
        read_table(tmp_path / "t.txt", {"id": parse_natural})


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": [0, -1]}, r"label of image 'i1' .* is -1"),
        ({"label": [0.0, float("nan")]}, r"label of image 'i0' .* is 0.0"),
        ({"label": [3, 3], "class_name": ["car", "bird"]}, "label 3 has the names 'car' and 'bird'"),
        ({"box": [(9.0, 0.0, 5.0, 20.0), None]}, "the box of image 'i0' is"),
        ({"box": [(0.0, 9.0, 5.0, 9.0), None]}, "the box of image 'i0' is"),
        ({"box": [(0.0, 0.0, float("nan"), 9.0), None]}, "the box of image 'i0' is"),
        ({"path": ["a.jpg", "./a.jpg"]}, "names path 'a.jpg' twice"),
    ],
)
def test_an_index_is_checked_whoever_made_it(home: Path, columns: dict, says: str) -> None:
    rows = found(home, ["a.jpg", "d.png"]).rows.assign(**columns)
    with pytest.raises(UserError, match=says):
        select_existing(THINGS, Layout(home, rows))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": [0, -1]}, r"the label of image 'i1' .* is -1"),
        ({"split": ["train", "Test"]}, "the split of image 'i1' is 'Test'"),
        ({"path": ["a.jpg", None]}, "the path of image 'i1' is nan"),  # as pandas has it
        ({"path": ["a.jpg", 5]}, "the path of image 'i1' is 5"),
        ({"mask_path": ["m.png", 5.0]}, "the mask_path of image 'i1' is 5.0"),
        ({"box": [(float("nan"),) * 4, None]}, "the box of image 'i0' is"),
        ({"box": [(0.0, 1.0), None]}, "the box of image 'i0' is"),
        ({"keypoints": ["left", None]}, "the keypoints of image 'i0' are 'left'"),
        ({"keypoints": [np.zeros((3, 2)), None]}, "the keypoints of image 'i0' are"),
        ({"keypoints": [np.zeros((3, 3)), np.zeros((4, 3))]}, "of image 'i1' are .* of 3 parts"),
        ({"keypoints": [np.full((3, 3), np.inf), None]}, "of image 'i0' are .* finite"),
        ({"is_query": [True, 2]}, "is_query holds other values than True and False"),
    ],
)
def test_an_index_of_ones_own_is_checked(home: Path, columns: dict, says: str) -> None:
    index = folder(home, ["a.jpg", "d.png"]).index
    ImageFolder("own", home, index, "own", WHOLE)
    with pytest.raises(UserError, match=f"own at .*: {says}|{says}"):
        ImageFolder("own", home, index.assign(**columns), "own", WHOLE)


def test_an_index_has_all_columns_and_ids_of_text(home: Path) -> None:
    index = folder(home, ["a.jpg", "d.png"]).index
    with pytest.raises(UserError, match="lacks the columns box"):
        ImageFolder("own", home, index.drop(columns="box"), "own", WHOLE)
    with pytest.raises(UserError, match="the id of image 0 is 0"):
        ImageFolder("own", home, index.reset_index(drop=True), "own", WHOLE)


def test_a_pipe_in_the_place_of_a_file_is_not_read_for_ever(home: Path) -> None:
    os.mkfifo(home / "pipe.jpg")
    with pytest.raises(UserError, match="not a regular file"):
        folder(home, ["a.jpg", "pipe.jpg"]).image("i1")
    with pytest.raises(UserError, match="not a regular file"):
        read_table(home / "pipe.jpg", {"id": parse_natural})
