"""The commands explain and score: their options, what they write, and errors in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from sfam_bench.app.arguments import to_settings
from sfam_bench.core.errors import UserError

SMALL = ("model=planted_net", "model.image_size=32", "explainer=[sfam]")


def test_options_are_settings() -> None:
    given = ["my bird.jpg", "--gallery", "a/b", "--top=3", "--label", "7", "--out", "x.html", "seed=1"]
    expected = ["query='my bird.jpg'", "gallery=a/b", "top=3", "label='7'", "out=x.html", "seed=1"]
    assert to_settings("explain", given) == expected
    plain = ["gallery=a", "query=b.jpg", "--cfg", "job"]
    assert to_settings("explain", plain) == plain
    given = ["--config-dir", "mine", "a.jpg", "b.jpg", "--explainers", "sfam,rise", "--model", "resnet50"]
    expected = ["--config-dir", "mine", "query=a.jpg", "reference=b.jpg", "explainer=[sfam,rise]", "model=resnet50"]
    assert to_settings("explain", given) == expected
    given = ["--metrics", "gini,iou_50", "--box=1,2,3,4", "query=a.jpg", "b.jpg"]
    assert to_settings("score", given) == ["metrics=[gini,iou_50]", "box=[1,2,3,4]", "query=a.jpg", "reference=b.jpg"]


def test_a_file_whose_name_has_an_equals_sign_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert to_settings("explain", ["seed=1.jpg", "b.jpg"]) == ["seed=1.jpg", "query=b.jpg"]
    Path("seed=1.jpg").touch()
    assert to_settings("explain", ["seed=1.jpg", "b.jpg"]) == ["query='seed=1.jpg'", "reference=b.jpg"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a.jpg", "--top"], "--top has no value: give one, as in --top VALUE"),
        (["a.jpg", "b.jpg", "c.jpg"], r"c.jpg is a third image: give two; several references are reference=\[B.jpg"),
        (["a.jpg", "--galery", "x"], "there is no option --galery: did you mean --gallery"),
        (["a.jpg", "--metrics", "gini"], "there is no option --metrics: choose --reference, --negative"),
    ],
)
def test_options_that_are_none(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        to_settings("explain", given)


@pytest.fixture
def photos(tmp_path):
    for label in ("robin", "<b>wren"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            PIL.Image.effect_noise((40, 50), 30 + number).save(tmp_path / "photos" / label / f"{number}.png")
    PIL.Image.effect_noise((40, 50), 90).save(tmp_path / "query.png")
    return tmp_path


@pytest.mark.slow
def test_a_page_is_written(run_script, photos) -> None:
    query, out = f"query={photos / 'query.png'}", photos / "page.html"
    given = (query, f"gallery={photos / 'photos'}", "top=2", "label=robin", f"out={out}", *SMALL)
    code, printed, error = run_script("explain", *given)
    assert code == 0, error
    assert f"page of planted_net with RANDOM WEIGHTS (trunk): {out}" in printed
    page = out.read_text()
    assert page.count('class="name"') in (2, 3)  # the first wrong result may be the third
    assert "<b>" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("gallery=nowhere",), "cannot read the folder nowhere"),
        (("reference=b.png",), "reference and gallery are given: choose one; give two images, A.jpg B.jpg;"),
        (("gallery=null",), "there is nothing to compare: give two images"),
        (("gallery=null", "pairs=pairs.csv"), "query and pairs are given: give two images"),
        (("negative=b.png",), "negative is given without reference: leave it out, or give both"),
        (("out=page.png",), "cannot write page.png: name a file that ends in .html"),
        (("explainer=[sfan]",), "there is no explainer 'sfan': choose sfam"),
        (("top=0",), "top is 0: expected an integer of at least 1"),
        (("label=crow",), "the gallery has no class 'crow'"),
    ],
    ids=["gallery", "two", "none", "both", "negative", "suffix", "name", "top", "label"],
)
def test_errors_are_one_line(run_script, photos, given, said) -> None:
    base = {"query": photos / "query.png", "gallery": photos / "photos", "out": photos / "page.html"}
    settings = {name: f"{name}={value}" for name, value in base.items()}
    settings |= {text.split("=")[0]: text for text in given}
    chosen = [text for text in SMALL if text.split("=")[0] not in settings]
    code, _, error = run_script("explain", *settings.values(), *chosen)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_two_images_and_a_list_of_pairs(run_script, photos) -> None:
    one, two = (photos / "photos" / "robin" / f"{number}.png" for number in range(2))
    call = ("explain", f"query={one}", f"reference={two}", *SMALL)
    for suffix in ("html", "png", "npz"):
        code, printed, error = run_script(*call, f"out={photos / 'pair'}.{suffix}")
        assert code == 0, error
        assert "similarity " in printed
        assert "maps of planted_net with RANDOM WEIGHTS (trunk): " in printed
    assert (photos / "pair.html").read_text().count("<img ") == 4
    with np.load(photos / "pair.npz") as arrays:
        assert arrays["sfam/query"].shape == (32, 32)
    (photos / "pairs.csv").write_text("query,reference\nquery.png,photos/robin/0.png\nquery.png,photos/robin/1.png\n")
    listed = (f"pairs={photos / 'pairs.csv'}", *SMALL)
    code, printed, error = run_script("explain", *listed, f"out={photos / 'all.npz'}")
    assert code == 0, error
    assert "query.png  photos/robin/1.png" in printed
    code, printed, error = run_script("score", *listed, f"out={photos / 'all.csv'}", "metrics=[gini,pointing_game]")
    assert code == 0, error
    assert "Gini index" in printed
    assert "skipped: pointing_game needs masks or boxes" in printed
    values = pd.read_csv(photos / "all.csv")
    assert values[values["metric"] == "gini"]["query_id"].tolist() == ["query.png"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("metrics=[delation]",), "there is no metric 'delation': did you mean"),
        (
            ("metric=[gini]",),
            "metrics are chosen by file, and gini is one of those of complexity: choose metric=[complexity]",
        ),
        (("box=[1,2,3]",), "give x1, y1, x2, y2 in pixels of the query"),
        (("metrics=[pointing_game]",), "none of the metrics can be measured: they need masks or boxes of the pairs"),
        (("out=values.txt",), "cannot write values.txt: name a file that ends in .csv"),
        (
            ("query=null", "reference=null", "pairs=x.csv", "negative=a.png"),
            "negative is given beside pairs: write it",
        ),
    ],
)
def test_scores_that_cannot_be(run_script, photos, given, said) -> None:
    one, two = (photos / "photos" / "robin" / f"{number}.png" for number in range(2))
    code, _, error = run_script("score", f"query={one}", f"reference={two}", *SMALL, f"out={photos / 'v.csv'}", *given)
    assert code == 2
    assert said in error
    assert error.splitlines()[-1].startswith("error: ")
