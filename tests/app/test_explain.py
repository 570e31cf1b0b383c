"""The command sfam-bench explain: its options, its page, and errors in one line."""

import PIL.Image
import pytest

from sfam_bench.app.commands.explain import to_settings
from sfam_bench.core.errors import UserError

SMALL = ("model=planted_net", "model.image_size=32", "explainer=[sfam]")


def test_options_are_settings() -> None:
    given = ["my bird.jpg", "--gallery", "a/b", "--top=3", "--label", "7", "--out", "x.html", "seed=1"]
    expected = ["query='my bird.jpg'", "gallery=a/b", "top=3", "label='7'", "out=x.html", "seed=1"]
    assert to_settings(given) == expected
    assert to_settings(["gallery=a", "query=b.jpg", "--cfg", "job"]) == ["gallery=a", "query=b.jpg", "--cfg", "job"]
    with pytest.raises(UserError, match="--top has no value"):
        to_settings(["a.jpg", "--top"])


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
    assert f"page: {out}" in printed
    page = out.read_text()
    assert page.count('class="name"') in (2, 3)  # the first wrong result may be the third
    assert "<b>" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("gallery=nowhere",), "cannot read the folder nowhere"),
        (("top=0",), "top is 0: expected an integer of at least 1"),
        (("label=crow",), "the gallery has no class 'crow'"),
    ],
    ids=["gallery", "top", "label"],
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
