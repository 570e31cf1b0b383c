"""In-shop, Market-1501, VeRi, Stanford Dogs, LFW and wildlife-datasets, on fakes of their layouts."""

import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy.io import savemat

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.lfw import lfw
from sfam_bench.datasets.pair_list import PairList
from sfam_bench.datasets.pairs import PairChoice
from sfam_bench.datasets.reidentification import inshop, market1501, veri
from sfam_bench.datasets.stanford_dogs import stanford_dogs
from sfam_bench.datasets.wildlife import to_rows, wildlife
from sfam_bench.retrieval.recall import roles_of


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (40, 30)).save(path, format="JPEG")


def pictures(root: Path, *names: str) -> None:
    for name in names:
        picture(root / name)


# In-shop

CLOTHES = {
    "img/WOMEN/Dresses/id_00000002/02_1_front.jpg": ("id_00000002", "train"),
    "img/WOMEN/Dresses/id_00000002/02_2_side.jpg": ("id_00000002", "train"),
    "img/MEN/Shorts/id_00000005/01_1_front.jpg": ("id_00000005", "query"),
    "img/MEN/Shorts/id_00000005/01_2_side.jpg": ("id_00000005", "gallery"),
}


def write_clothes(root: Path, nested: bool) -> None:
    home = root / "In_shop_Clothes_Retrieval_Benchmark"
    pictures(home / "Img" if nested else home, *CLOTHES)
    lists = home / "Eval" if nested else home
    lists.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}   {item}    {side}" for name, (item, side) in CLOTHES.items()]
    text = "\n".join([str(len(rows)), "image_name item_id evaluation_status", *rows])
    (lists / "list_eval_partition.txt").write_text(text + "\n")
    boxes = [f"{name} 2 1 {3 + k} 4 30 28" for k, name in enumerate(list(CLOTHES)[:3])]
    header = "image_name clothes_type pose_type x_1 y_1 x_2 y_2"
    (home / "Anno").mkdir(exist_ok=True)
    (home / "Anno" / "list_bbox_inshop.txt").write_text("\n".join([str(len(boxes)), header, *boxes]))


@pytest.mark.parametrize("nested", [False, True])
def test_inshop_has_official_roles_and_boxes(tmp_path: Path, nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    write_clothes(tmp_path, nested)
    with caplog.at_level(logging.WARNING):
        data = inshop(tmp_path)
    assert isinstance(data, Dataset)
    assert data.split_name == "zero-shot, official"
    assert list(data.index.split) == ["train", "train", "test", "test"]
    assert list(data.index.label) == [2, 2, 5, 5]
    assert data.index.is_query.tolist() == [True, True, True, False]
    assert data.index.is_gallery.tolist() == [True, True, False, True]
    assert data.index.box.iloc[1] == (4.0, 4.0, 30.0, 28.0)
    assert data.index.box.iloc[3] is None
    assert "4 of 52712 images, 2 of 7982 classes" in caplog.text
    assert data.sample(next(iter(CLOTHES))).masks["box"].any()


def test_a_wrong_number_of_rows_and_a_wrong_role_are_refused_with_their_line(tmp_path: Path) -> None:
    write_clothes(tmp_path, False)
    file = tmp_path / "In_shop_Clothes_Retrieval_Benchmark" / "list_eval_partition.txt"
    text = file.read_text()
    file.write_text(text.replace("4\n", "5\n", 1))
    with pytest.raises(UserError, match="line 1: expected the number of rows, 4"):
        inshop(tmp_path)
    file.write_text(text.replace("query", "probe"))
    with pytest.raises(UserError, match=r"line 5: .*train or query or gallery"):
        inshop(tmp_path)


# Market-1501 and VeRi


def write_market(root: Path) -> Path:
    home = root / "Market-1501-v15.09.15"
    pictures(home / "bounding_box_train", "0002_c1s1_000451_03.jpg", "0002_c2s1_000452_03.jpg")
    pictures(home / "query", "0005_c1s1_000001_00.jpg", "0006_c3s1_000001_00.jpg")
    pictures(
        home / "bounding_box_test",
        *("0005_c1s1_000009_01.jpg", "0005_c2s1_000008_01.jpg", "0006_c1s1_000007_01.jpg"),
        *("0000_c1s1_000001_01.jpg", "-1_c1s1_000002_01.jpg"),
    )
    (home / "query" / "Thumbs.db").write_bytes(b"")
    (home / "query" / "._0005_c1s1_000001_00.jpg").write_bytes(b"")  # what macOS leaves
    return home


def test_market_has_cameras_distractors_and_no_junk(tmp_path: Path) -> None:
    write_market(tmp_path)
    data = market1501(tmp_path)
    assert data.split_name == "zero-shot, official"
    assert len(data.index) == 8
    assert not data.index.path.str.contains("-1_").any()
    found = data.index.loc["bounding_box_test/0005_c2s1_000008_01.jpg"]
    assert (found.label, found.camera, found.is_query, found.is_gallery) == (5, 2, False, True)
    assert (data.index.label == 0).sum() == 1
    tests = data.index.index[data.index.split == "test"]
    cameras = roles_of(data, list(tests)).cameras
    assert cameras.tolist() == data.index.camera.loc[tests].tolist()


def test_a_pair_is_never_of_one_class_and_camera(tmp_path: Path) -> None:
    write_market(tmp_path)
    data = market1501(tmp_path)
    ids = list(data.index.index[data.index.split == "test"])
    pairs = PairChoice(kinds=("random_positive",), count=4)(data, Cosine(), torch.rand(len(ids), 4), ids)
    found = dict(zip(pairs.query_id, pairs.reference_id, strict=True))
    assert found == {
        "query/0005_c1s1_000001_00.jpg": "bounding_box_test/0005_c2s1_000008_01.jpg",
        "query/0006_c3s1_000001_00.jpg": "bounding_box_test/0006_c1s1_000007_01.jpg",
    }


def test_veri_reads_the_same_names(tmp_path: Path) -> None:
    home = tmp_path / "VeRi"
    pictures(home / "image_train", "0001_c001_00016450_0.jpg", "0001_c002_00016460_0.jpg")
    pictures(home / "image_query", "0002_c002_00030600_0.jpg")
    pictures(home / "image_test", "0002_c002_00030600_0.jpg", "0002_c003_00084280_0.jpg")
    data = veri(tmp_path)
    assert data.index.camera.tolist() == [1, 2, 2, 2, 3]
    assert data.index.split.tolist() == ["train", "train", "test", "test", "test"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for read, what in ((market1501, "bounding_box_train"), (veri, "image_query"), (inshop, "list_eval_partition.txt")):
        with pytest.raises(UserError, match=f"{what}.*set dataset.root"):
            read(tmp_path)
    home = write_market(tmp_path)
    for file in (home / "query").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no query images"):
        market1501(tmp_path)
    picture(home / "query" / "somebody.jpg")
    with pytest.raises(UserError, match=r"somebody\.jpg: expected a name such as"):
        market1501(tmp_path)


# Stanford Dogs

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog", "n02086079-Pekinese")
OBJECT = "<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_dogs(home: Path) -> list[str]:
    names = [f"{breed}/{breed[:9]}_{k}.jpg" for breed in BREEDS for k in (7, 8)]
    pictures(home / "Images", *names)
    note = home / "Annotation" / names[0].removesuffix(".jpg")
    note.parent.mkdir(parents=True)
    note.write_text(f"<annotation>{OBJECT.format(5, 6, 20, 21)}{OBJECT.format(2, 9, 18, 25)}</annotation>")
    return names


def test_stanford_dogs_by_class_and_by_image(tmp_path: Path) -> None:
    names = write_dogs(tmp_path / "StanfordDogs")
    data = stanford_dogs(tmp_path)
    assert data.index.label.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert data.index.class_name.iloc[2] == "Japanese_spaniel"
    assert data.index.box.iloc[0] == (2.0, 6.0, 20.0, 25.0)
    assert data.index.box.iloc[1] is None
    assert data.split_name == "zero-shot, halves of the 4 classes present"
    with pytest.raises(UserError, match="no image-level split"):
        stanford_dogs(tmp_path, "closed_set")
    for side, chosen in {"train": names[::2], "test": names[1::2]}.items():
        cells = np.empty((len(chosen), 1), dtype=object)
        cells[:, 0] = chosen
        savemat(tmp_path / "StanfordDogs" / f"{side}_list.mat", {"file_list": cells})
    closed = stanford_dogs(tmp_path, "closed_set")
    assert closed.index.split.tolist() == ["train", "test"] * 4
    picture(tmp_path / "StanfordDogs" / "Images" / BREEDS[0] / "n02085620_9.jpg")
    with pytest.raises(UserError, match=r"neither list has .*n02085620_9"):
        stanford_dogs(tmp_path, "closed_set")


# LFW


def test_lfw_and_its_pair_list(tmp_path: Path) -> None:
    home = tmp_path / "lfw"
    pictures(home, *(f"{name}/{name}_000{k}.jpg" for name in ("Abel_Pacheco", "Akhmed_Zakayev") for k in (1, 2, 4)))
    data = lfw(tmp_path)
    assert data.index.split.unique().tolist() == ["test"]
    assert data.index.label.tolist() == [0] * 3 + [1] * 3
    file = tmp_path / "pairs.txt"
    file.write_text("1\t2\nAbel_Pacheco\t1\t4\nAkhmed_Zakayev 1 2\nAbel_Pacheco\t1\tAkhmed_Zakayev\t1\n")
    pairs = PairList(str(file)).find_ids(data, list(data.index.index))
    assert pairs.iloc[0].tolist() == ["Abel_Pacheco/Abel_Pacheco_0001.jpg", "Abel_Pacheco/Abel_Pacheco_0004.jpg", ""]
    assert PairList(str(file)).table.same.tolist() == [True, True, False]
    file.write_text("Abel_Pacheco 1\n")
    with pytest.raises(UserError, match=r"pairs\.txt, line 1: .*expected 'person i j'"):
        _ = PairList(str(file)).table
    with pytest.raises(UserError, match=r"no LFW at .*NAME_0001\.jpg"):
        lfw(tmp_path / "lfw" / "Abel_Pacheco")


# wildlife-datasets


def catalogue() -> pd.DataFrame:
    names = ["a", "a", "b", "unknown"]
    return pd.DataFrame(
        {
            "image_id": [11, 12, 13, 14],
            "identity": names,
            "path": [f"images/{k}.jpg" for k in range(4)],
            "bbox": [[1.0, 2.0, 10.0, 12.0], np.nan, [0, 0, 5, 6], np.nan],
        }
    )


def test_a_catalogue_of_wildlife_datasets_becomes_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = to_rows(catalogue(), "Zebras")
    assert rows.index.tolist() == ["11", "12", "13"]
    assert rows.label.tolist() == [0, 0, 1]
    assert rows.box.iloc[0] == (1.0, 2.0, 11.0, 14.0)
    assert rows.box.iloc[1] is None

    class Zebras:
        def __init__(self, root: str) -> None:
            if not Path(root).is_dir():
                raise FileNotFoundError("no images")
            self.df = catalogue()

    package, inside = ModuleType("wildlife_datasets"), ModuleType("wildlife_datasets.datasets")
    package.__spec__ = sys.__spec__
    inside.Zebras = Zebras  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wildlife_datasets", package)
    monkeypatch.setitem(sys.modules, "wildlife_datasets.datasets", inside)
    pictures(tmp_path, *(f"images/{k}.jpg" for k in range(4)))
    data = wildlife("Zebras", str(tmp_path))
    assert data.name == "Zebras"
    assert data.index.split.tolist() == ["train", "train", "test"]
    with pytest.raises(UserError, match="has no 'Unicorns'"):
        wildlife("Unicorns", str(tmp_path))
    with pytest.raises(UserError, match="download it as wildlife-datasets says"):
        wildlife("Zebras", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="lacks path"):
        to_rows(catalogue().drop(columns="path"), "Zebras")


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfam_bench.datasets.wildlife.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\.\[wildlife\]"):
        wildlife("Zebras", str(tmp_path))
