"""What is made of an explanation: pictures on the original, tables, files, HTML."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sfam_bench.api import compare, explain, save_explanations, score
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.maps import place
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.references import Prototype
from sfam_bench.models.similarity_model import SimilarityModel
from tests.api.small import images, picture, small_model

MODEL = small_model()


def explained(**settings: object):
    return explain(MODEL, picture(0), picture(1, (46, 60)), ["sfam", "lafam"], **settings)


@pytest.mark.parametrize("size", [(60, 46), (46, 61), (33, 90), (20, 24)])
@pytest.mark.parametrize(
    "geometry", [Geometry(37, 32), Geometry(None, 32), Geometry((40, 36), (32, 24)), Geometry(32, 32)]
)
def test_the_window_is_where_the_crop_is(geometry: Geometry, size: tuple[int, int]) -> None:
    """Ramps of the coordinates, cropped and put back, are the coordinates again."""
    cols, rows = size
    for axis in (0, 1):
        places = np.indices((rows, cols))[axis].astype(np.float32) + 0.5
        levels = np.rint(places * 2).astype(np.uint8)  # halves of a pixel as levels
        seen = geometry(PIL.Image.fromarray(np.repeat(levels[..., None], 3, axis=2))).image[0] * 255 / 2
        back = place(seen[None], geometry.window((rows, cols)), (rows, cols))[0].numpy()
        inside = np.isfinite(back) & (places > 2) & (places < (rows, cols)[axis] - 2)
        assert inside.any()
        assert np.abs(back - places)[inside].max() < 0.8


def test_a_map_on_the_original_has_its_pixels_and_no_value_outside_of_the_crop() -> None:
    found = explained()
    for side, size in {"query": (60, 46), "reference": (46, 60)}.items():
        assert found.overlay("sfam", side, original=True).size == found.heatmap(side=side, original=True).size == size
        raw = found.map_of("sfam", side, original=True)
        assert raw.shape == size[::-1]
        cut = np.isnan(raw)
        assert cut[:, 0].all() if size[0] > size[1] else cut[0].all()
        assert not cut[size[1] // 2, size[0] // 2]
        assert np.nanmax(np.abs(raw)) == pytest.approx(1, abs=0.15)
    assert found.overlay().size == (32, 32)
    tensors = explain(MODEL, *images(2), "sfam")
    assert np.array_equal(tensors.map_of(original=True), tensors.query_maps["sfam"].numpy())


def test_the_original_is_read_again_from_its_file(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    found = explain(MODEL, tmp_path / "a.png", picture(1), "sfam")
    assert found.overlay(original=True).size == (60, 46)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a.png is missing: check the path"):
        found.overlay(original=True)
    assert found.overlay().size == (32, 32)


def test_a_prototype_has_a_picture_for_each_image_and_a_chosen_one_its_own() -> None:
    supports = [picture(1, (50, 40)), picture(2, (70, 40)), picture(0, (61, 46))]
    found = explain(MODEL, picture(0), supports, "sfam")
    assert [found.overlay(side="reference", original=True, number=number).size[0] for number in range(3)] == [
        50,
        70,
        61,
    ]
    nearest = explain(MODEL, picture(0), supports, "sfam", how=Prototype("nearest"))
    assert nearest.overlay(side="reference", original=True).size == (61, 46)


def test_colours_are_fields() -> None:
    found = explained()
    pale = replace(found, alpha=0.1)
    grey = np.asarray(PIL.Image.fromarray(np.asarray(found.overlay())).convert("L"), dtype=int)
    assert (
        np.abs(np.asarray(pale.overlay(), dtype=int) - grey[..., None]).mean()
        < np.ptp(np.asarray(found.overlay()), -1).mean()
    )
    assert found.overlay() != replace(found, colormap="viridis").overlay()
    with pytest.raises(UserError, match="there is no colormap 'virids': did you mean viridis"):
        replace(found, colormap="virids")
    with pytest.raises(UserError, match="alpha is 2: give an opacity"):
        replace(found, alpha=2)


def test_a_flagged_map_is_no_picture_of_a_map() -> None:
    image = images(1)[0]
    found = explain(MODEL, image, image, "sfam")
    assert np.ptp(np.asarray(found.heatmap())) == 0
    assert np.ptp(np.asarray(found.overlay()), axis=-1).max() == 0
    assert "no map" in found._repr_html_()


def test_the_frame_has_each_value() -> None:
    found = explained()
    frame = found.to_dataframe()
    assert [*frame.columns] == ["explainer", "side", "number", "row", "col", "value"]
    assert len(frame) == 2 * 2 * 32 * 32
    one = frame[(frame["explainer"] == "lafam") & (frame["side"] == "reference")]
    assert np.array_equal(one["value"].to_numpy().reshape(32, 32), found.reference_maps["lafam"].numpy())
    assert one.iloc[33][["row", "col"]].tolist() == [1, 1]


def test_files_by_suffix(tmp_path: Path) -> None:
    found = explained(negative=picture(5))
    found.save(tmp_path / "new" / "pair.npz")
    with np.load(tmp_path / "new" / "pair.npz") as stored:
        assert float(stored["score"]) == found.score
        assert np.array_equal(stored["sfam/negative"], found.negative_maps["sfam"].numpy())
    found.save(tmp_path / "pair.png", score(MODEL, picture(0), picture(1, (46, 60)), ["sfam", "lafam"]))
    assert PIL.Image.open(tmp_path / "pair.png").format == "PNG"
    found.save(tmp_path / "pair.html")
    page = (tmp_path / "pair.html").read_text()
    assert page.count("<img ") == 9
    assert "margin" in page
    with pytest.raises(UserError, match=r"name a file that ends in .png, .svg, .html or .npz$"):
        found.save(tmp_path / "pair.jpg")
    with pytest.raises(UserError, match=r"cannot write .*: choose a place that you may write to"):
        found.save(tmp_path / "pair.png" / "pair.npz")


@dataclass(frozen=True)
class Blank:
    """A method whose maps of red images are constant."""

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> torch.Tensor:
        maps = encoded.query.activations.mean(dim=1)
        red = encoded.query.images[:, 0].amin(dim=(1, 2)) == 1
        return torch.where(red[:, None, None], 1, maps)


def test_flags_and_captions_are_of_the_image_whose_map_is_zero() -> None:
    plain, red = images(2).clone()
    red[0] = 1
    for pair, flag in (((plain, red), "reference: constant_map"), ((red, plain), "constant_map")):
        found = explain(MODEL, *pair, {"blank": Blank()})
        assert found.flags == {"blank": flag}
        (panel,) = found.sheet(score(MODEL, *pair, {"blank": Blank()})).panels
        assert panel.lines[0] == flag.replace("_", " ")
        assert (len(panel.lines) > 1) == (pair[0] is plain)  # the values of the query's map
    assert found.query_maps["blank"].abs().max() == 0 < found.reference_maps["blank"].abs().max()
    whole = explain(MODEL, plain, images(1, 5)[0], {"blank": Blank()}, negative=red)
    assert whole.flags == {"blank": "negative: constant_map"}


def test_many_in_one_file(tmp_path: Path) -> None:
    pairs = [(images(1, at)[0], images(1, 9)[0]) for at in range(3)]
    found = explain(MODEL, pairs, explainers=["sfam", "lafam"])
    save_explanations(found, tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as stored:
        assert stored["sfam/query"].shape == (3, 32, 32)
        assert stored["query_id"].tolist() == [made.ids[0] for made in found]
    save_explanations(found, tmp_path / "all.html", score(MODEL, pairs, explainers=["sfam", "lafam"]))
    page = (tmp_path / "all.html").read_text()
    assert page.count("<h2 ") == 3
    assert page.count("deletion AUC (mean colour) ↓") == 6
    with pytest.raises(UserError, match=r"would hold 3 pairs: name a file that ends in .html or .npz"):
        save_explanations(found, tmp_path / "all.png")


def test_html_escapes_names() -> None:
    fragment = explain(MODEL, *images(2), {"<b>mine": "sfam"})._repr_html_()
    assert "&lt;b&gt;mine" in fragment
    assert "<b>" not in fragment
    assert "<html" not in fragment


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"explainer": "rise"}, "^there is no map by 'rise': it has sfam, lafam$"),
        ({"side": "negative"}, "^there is no image 'negative': choose one of query, reference$"),
        ({"number": 1}, "^query has 1 images: number is 1, and counts from 0$"),
    ],
)
def test_what_is_not_there_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        explained().overlay(**given)  # type: ignore[arg-type]


def test_methods_and_models_side_by_side(tmp_path: Path) -> None:
    first, second = images(2)
    one = compare(MODEL, first, second, ["sfam", "lafam"], ["gini", "deletion_mean_colour"])
    assert [*one.scores.index] == [("small", "sfam"), ("small", "lafam")]
    expected = score(MODEL, first, second, ["sfam", "lafam"], ["gini", "deletion_mean_colour"])
    assert np.array_equal(one.scores.to_numpy(), expected.to_numpy())
    assert one.explanations["small"].score == expected.attrs["score"]
    both = compare([MODEL, small_model(1, "other")], first, second, "sfam", "deletion_mean_colour")
    assert [*both.explanations] == ["small", "other"]
    both.save(tmp_path / "both.html")
    assert (tmp_path / "both.html").read_text().count("<h2 ") == 2
    figure = both.show(tmp_path / "both.png")
    assert {"small", "other"} <= {text.get_text() for text in figure.texts}
    with pytest.raises(UserError, match=r"the models are called small, small: give them as"):
        compare([MODEL, MODEL], first, second)
    with pytest.raises(UserError, match=r"name a file that ends in .png, .svg or .html"):
        both.save(tmp_path / "both.npz")


def test_the_margin_is_its_two_similarities_and_its_map_theirs() -> None:
    query, positive, negative = images(3)
    margin = explain(MODEL, query, positive, "similarity_decomposition", negative=negative)
    towards, away = (explain(MODEL, query, other, "similarity_decomposition") for other in (positive, negative))
    assert margin.target == "margin"
    assert margin.score == pytest.approx(towards.score - away.score, abs=1e-6)
    name = "similarity_decomposition"
    torch.testing.assert_close(margin.reference_maps[name], towards.reference_maps[name])
    torch.testing.assert_close(margin.negative_maps[name], away.reference_maps[name])
    table = score(MODEL, query, positive, name, ["margin_deletion_mean_colour", "gini"], negative=negative)
    assert table.attrs["score"] == margin.score
    assert table.notna().all(axis=None)
