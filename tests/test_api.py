"""explain(), score(), show(): one pair, a line each."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

import sfam_bench
from sfam_bench.api import METRICS
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.records import PairBatch
from sfam_bench.core.references import Vectors
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.datasets.pictures import sample
from sfam_bench.evaluation.evaluate import PAIR, evaluate
from sfam_bench.evaluation.named import _entries, find_object
from sfam_bench.explainers.controls import Chance, LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.decisions import MarginArea
from sfam_bench.metrics.perturbation import AreaError, Perturbation
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from tests.contract import build_entries
from tests.paths import CONF

NAMES = sorted(file.stem for file in (CONF / "explainer").glob("*.yaml"))


GEOMETRY = Geometry(37, 32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), Cosine(), image_size=32)


def picture(seed, size=(50, 40)):
    return PIL.Image.effect_noise(size, 40 + seed)


def test_maps_of_both_images_in_three_lines(model, tmp_path):
    picture(0).save(tmp_path / "query.png")
    found = sfam_bench.explain(model, tmp_path / "query.png", picture(1))
    assert found.query_maps.keys() == found.reference_maps.keys() == {"sfam", "similarity_decomposition"}
    assert found.query_maps["sfam"].shape == found.query.shape[1:] == (32, 32)
    assert 0.5 < found.query_maps["sfam"].abs().max() <= 1
    assert -1 <= found.score <= 1
    assert not found.flags


def test_the_reference_map_is_the_query_map_of_the_swapped_pair(model):
    images = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    there, back = sfam_bench.explain(model, *images), sfam_bench.explain(model, *images.flip(0))
    torch.testing.assert_close(there.reference_maps["sfam"], back.query_maps["sfam"])
    assert there.score == pytest.approx(back.score)


def test_an_image_with_itself_gives_no_pretty_map(model):
    image = torch.rand(3, 32, 32)
    found = sfam_bench.explain(model, image, image, {"lafam": LaFAM()})
    assert found.flags == {"lafam": "self_pair"}
    assert found.query_maps["lafam"].abs().max() == 0


NOISE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
BROKEN = NOISE.clone()
BROKEN[0, 3, 3] = float("nan")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            torch.rand(32, 32),
            r"query is \(32, 32\) of float32: an image tensor must have the shape \(3, rows, cols\)",
        ),
        (
            torch.rand(4, 32, 32),
            r"query is \(4, 32, 32\) of float32: .*; a PIL image or an array may have transparency",
        ),
        (torch.rand(32, 32, 3), r"query is \(32, 32, 3\) .* permute\(2, 0, 1\) puts the channels first"),
        (
            torch.zeros(3, 8, 8, dtype=torch.int64),
            r"query is of int64: give uint8, uint16, bool, or floats in \[0, 1\]",
        ),
        (torch.rand(3, 0, 8), r"query is \(3, 0, 8\)"),
        (BROKEN, "query has pixels that are NaN or infinite"),
        (NOISE * 255, r"query lies in \[.*, 255\]: give RGB in \[0, 1\].*divide by 255, or give uint8"),
        (NOISE - 0.5, r"query lies in \[-0"),
        (torch.rand(3, 32, 40), r"query is \(3, 32, 40\) and reference \(3, 32, 32\): give both one size"),
        ("nowhere.jpg", "query nowhere.jpg is missing: check the path$"),
        (".", r"^\. is a folder: give an image file$"),
    ],
)
@pytest.mark.parametrize("call", ["explain", "score"])
def test_what_is_no_image_is_refused_in_one_line(model, call, image, said):
    with pytest.raises(UserError, match=said) as error:
        getattr(sfam_bench, call)(model, image, NOISE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opened", [False, True])
def test_a_truncated_photo_is_refused_in_one_line(model, tmp_path, opened):
    whole, half = tmp_path / "whole.jpg", tmp_path / "half.jpg"
    picture(0, (200, 200)).save(whole)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        sfam_bench.explain(model, PIL.Image.open(half) if opened else half, NOISE)


def test_names_of_explainers_are_looked_up(model):
    found = sfam_bench.explain(model, NOISE, NOISE.flip(0), ["lafam", "chance"])
    given = sfam_bench.explain(model, NOISE, NOISE.flip(0), {"lafam": LaFAM(), "chance": Chance()})
    assert [*found.query_maps] == ["lafam", "chance"]
    assert all(torch.equal(found.query_maps[name], given.query_maps[name]) for name in found.query_maps)
    assert [*sfam_bench.explain(model, NOISE, NOISE.flip(0), "lafam").query_maps] == ["lafam"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_what_it_means_to_evaluate(name):
    assert find_object("explainer", name) == build_entries("explainer", name)[name]


@pytest.mark.parametrize("file", sorted(file.stem for file in (CONF / "metric").glob("*.yaml")))
def test_the_name_of_a_metric_means_what_it_means_to_evaluate(file):
    expected = build_entries("metric", file)
    assert {name: find_object("metric", name) for name in expected} == expected


@pytest.mark.parametrize(
    ("explainers", "said"),
    [
        (["sfan"], "there is no explainer 'sfan': did you mean sfam"),
        (["../dataset/cub"], "there is no explainer '../dataset/cub': did you mean"),
        ([], "no explainer is given"),
        ({}, "no explainer is given"),
        (["grad_eclip"], "Grad-ECLIP needs a vision transformer"),
        (["weight_transfer"], r"WeightTransfer needs training images.*in Python: method.prepare"),
        ({"mine": SFAM}, r"^explainer 'mine' is the class SFAM: give an object, SFAM\(\.\.\.\)$"),
    ],
)
def test_explainers_that_cannot_be_are_refused(model, explainers, said):
    with pytest.raises(UserError, match=said):
        sfam_bench.explain(model, NOISE, NOISE.flip(0), explainers)


def test_metrics_go_by_name_too(model):
    found = sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", ["deletion_mean_colour", "gini"])
    given = {name: find_object("metric", name) for name in ("deletion_mean_colour", "gini")}
    pd.testing.assert_frame_equal(found, sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", given))
    assert [*sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", "gini").columns] == ["gini"]


@pytest.mark.slow
def test_what_is_no_object_of_its_kind_is_refused_in_one_line():
    """In a process of its own, without the checks of types that pytest adds."""
    code = """
import torch
from sfam_bench import explain, score
from sfam_bench.core.baselines import Blur
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.datasets.pictures import sample
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.complexity import Gini
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.core.similarity import Cosine

model, image = build("small", planted_net((4,), (2,)), GAP(), Cosine(), image_size=32), torch.rand(3, 32, 32)
for make in (
    lambda: explain(model, image, image, 3),
    lambda: explain(model, image, image, [SFAM]),
    lambda: explain(model, image, image, [SFAM(), "sfam"]),
    lambda: explain(model, image, image, {"mine": 3}),
    lambda: explain("resnet18", image, image),
    lambda: score(model, image, image, metrics=["ginni"]),
    lambda: score(model, image, image, metrics={"mine": Gini}),
    lambda: score(model, image, image, metrics={"mine": 3}),
    lambda: score(model, image, image, metrics=[]),
    lambda: Perturbation("deletion", baseline=Blur),
    lambda: Perturbation("deletion", baseline="blur"),
    lambda: build("small", planted_net((4,), (2,)), GAP, Cosine()),
    lambda: build("small", planted_net((4,), (2,)), GAP(), Cosine),
    lambda: build("flat", torch.nn.Flatten(), GAP(), Cosine(), image_size=8),
    lambda: build("grid", planted_net((4,), (2,)), torch.nn.Identity(), Cosine(), image_size=32),
):
    try:
        make()
    except UserError as error:
        print(str(error)[:75])
for query, box in (([0.5], None), (None, None), (image, 3)):
    try:
        sample(query, "query", Geometry(37, 32), box=box)
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "explainers is 3, of type int: give an object of Mapping or Sequence",
        "explainer is the class SFAM: give an object, SFAM(...)",
        "two explainers are called 'sfam': give them as {'name': object, ...}",
        "explainer 'mine' is 3, of type int: give an object of Explainer",
        "model is 'resnet18', of type str: give an object of Module",
        "there is no metric 'ginni': did you mean gini?",
        "metric 'mine' is the class Gini: give an object, Gini(...)",
        "metric 'mine' is 3, of type int: give an object of Metric",
        "no metric is given: name one, such as metrics=['deletion_mean_colour'], or ",
        "Perturbation.baseline is the class Blur: give an object, Blur(...)",
        "Perturbation.baseline is 'blur', of type str: give an object of Baseline",
        "pooling is the class GAP: give an object, GAP(...)",
        "similarity is the class Cosine: give an object, Cosine(...)",
        "the trunk of flat returns (1, 192) for one image: expected a tensor (1, cha",
        "the embedder of grid returns (1, 4, 16, 16) for one image: expected (1, dim",
        "query is of type list: give a path, bytes of a file, a PIL image, an array or a tensor",
        "query is of type NoneType: give a path, bytes of a file, a PIL image, an array or a tensor",
        "box is 3: give x1, y1, x2, y2 in pixels of the query",
    ]


def test_only_methods_of_the_package_are_imported(tmp_path, monkeypatch):
    (tmp_path / "explainer").mkdir()
    (tmp_path / "explainer" / "evil.yaml").write_text("evil: {_target_: os.system, command: 'true'}")
    monkeypatch.setattr("sfam_bench.evaluation.named.conf_folder", lambda: tmp_path)
    _entries.cache_clear()
    with pytest.raises(UserError, match=r"names os.system, which is not in sfam_bench"):
        find_object("explainer", "evil")
    _entries.cache_clear()


def test_scores_are_those_of_evaluate(model):
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:20, 8:28] = True
    chosen = {"sfam": SFAM(), "chance": Chance()}
    table = sfam_bench.score(model, NOISE, NOISE.flip(2), chosen, foreground=mask)
    made = sfam_bench.explain(model, NOISE, NOISE.flip(2))
    query, reference, _ = ((name,) for name in made.ids)
    pairs = PairBatch(query, reference, NOISE[None], NOISE.flip(2)[None], masks={"foreground": mask[None]})
    (shard,) = evaluate(
        model, Similarity(), [pairs], chosen, {name: find_object("metric", name) for name in METRICS}, "any"
    )
    there = {(r.explainer, r.metric): r.value for r in shard.records if r.explainer != PAIR}
    assert {key: table.loc[key] for key in there} == pytest.approx(there, nan_ok=True)
    assert table.shape == (2, len(METRICS))
    assert table.size == len(there)
    assert table.attrs["score"] == made.score
    assert table.attrs["metrics"]["deletion_mean_colour"]["higher_is_better"] is False


def test_localisation_needs_the_object(model):
    without = sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam")
    boxed = sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", box=(0, 0, 32, 32))
    assert not {"pointing_game", "energy_pointing_game"} & {*without.columns}
    assert boxed.loc["sfam", "energy_pointing_game"] == pytest.approx(1)
    assert boxed.loc["sfam", without.columns].tolist() == pytest.approx(without.loc["sfam"].tolist(), nan_ok=True)


def test_nan_has_a_reason(model):
    table = sfam_bench.score(model, NOISE, NOISE, ["sfam", "chance"])
    assert table.isna().all(axis=None)
    assert table.attrs["flags"] == {name: dict.fromkeys(table.columns, "self_pair") for name in ("sfam", "chance")}
    narrow = {"deletion": Perturbation("deletion", min_range=3), "error": AreaError("deletion", share=0)}
    table = sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", narrow)
    assert table.isna().all(axis=None)
    assert table.attrs["flags"] == {"sfam": {"deletion": "zero_range", "error": "not_drawn"}}


def test_a_metric_that_a_pair_alone_cannot_have_is_refused(model):
    with pytest.raises(UserError, match=r"^area needs negative, which is not known of this pair: give negative="):
        sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", {"area": MarginArea("deletion")})
    with pytest.raises(UserError, match=r"needs foreground.*: give foreground= or box="):
        sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", {"game": find_object("metric", "pointing_game")})


def test_marks_go_through_the_geometry_of_their_image(model, tmp_path):
    """A light square in a photo that is halved: its box and its mask end on the same pixels of the crop."""
    square = np.zeros((74, 90), dtype=np.uint8)
    square[20:40, 30:62] = 255
    PIL.Image.fromarray(square).save(tmp_path / "mask.png")
    photo = PIL.Image.fromarray(square).convert("RGB")
    boxed = sample(photo, "query", GEOMETRY, box=(30, 20, 62, 40))
    masked = [sample(photo, "query", GEOMETRY, foreground=mask) for mask in (tmp_path / "mask.png", square > 127)]
    light = boxed.image[0] > 0.5
    assert light.sum() == 10 * 16
    assert all(torch.equal(found.masks["foreground"], light) for found in (boxed, *masked))
    tensor = sample(torch.zeros(3, 8, 12), "query", GEOMETRY, box=(1, 2, 3, 8))
    assert tensor.masks["box"].nonzero().tolist() == [[row, col] for row in range(2, 8) for col in (1, 2)]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"box": (5, 5, 5, 9)}, "does not overlap the 32 x 32 query"),
        ({"box": (40, 0, 50, 9)}, "does not overlap"),
        ({"box": (0, 0, float("nan"), 9)}, "does not overlap"),
        ({"box": (1, 2, 3)}, "give x1, y1, x2, y2"),
        ({"foreground": np.zeros((32, 31), dtype=bool)}, r"foreground is \(32, 31\) and its image \(32, 32\)"),
        ({"foreground": torch.rand(32, 32)}, r"foreground holds float32 other than levels"),
        ({"foreground": "no.png"}, "no.png is missing"),
    ],
)
def test_marks_that_do_not_fit_are_refused(model, marks, said):
    with pytest.raises(UserError, match=said):
        sfam_bench.score(model, NOISE, NOISE.flip(2), "sfam", **marks)


def test_show_writes_what_it_returns(model, tmp_path):
    queries = NOISE, NOISE.flip(2)
    table = sfam_bench.score(model, *queries, ["sfam", "lafam"])
    found = sfam_bench.explain(model, *queries, {"sfam": SFAM(), "$<b>&": LaFAM()})
    png, svg, again = tmp_path / "new" / "pair.png", tmp_path / "pair.svg", tmp_path / "again.svg"
    figure = sfam_bench.show(found, png, table)
    assert PIL.Image.open(png).format == "PNG"
    assert figure._repr_png_() == png.read_bytes()  # what a notebook shows
    sfam_bench.show(found, str(svg), table)
    sfam_bench.show(found, again, table)
    assert svg.read_bytes() == again.read_bytes()
    texts = [text.get_text() for text in figure.texts]
    assert {"sfam", "$<b>&", f"similarity {found.score:.3f}"} <= {*texts}
    assert f"deletion AUC (mean colour) ↓ {table.loc['sfam', 'deletion_mean_colour']:.3f}" in "\n".join(texts)
    assert [len(axes.images) for axes in figure.axes] == [1] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.svg", "new", "pair.svg"]


def test_show_says_where_a_map_is_flagged(model):
    figure = sfam_bench.show(sfam_bench.explain(model, NOISE, NOISE, "sfam"))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["flagged", "flagged"]
    assert "self pair" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("name", ["pair", "pair.gif", "pair.pdf", "pair.PNG"])
def test_show_draws_nothing_else(model, tmp_path, name):
    found = sfam_bench.explain(model, NOISE, NOISE.flip(2), "sfam")
    with pytest.raises(UserError, match=r"name a file that ends in .png or .svg"):
        sfam_bench.show(found, tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_show_says_where_it_may_not_write(model, tmp_path):
    (tmp_path / "file").write_text("")
    found = sfam_bench.explain(model, NOISE, NOISE.flip(2), "sfam")
    with pytest.raises(UserError, match=r"cannot write .*choose a place"):
        sfam_bench.show(found, tmp_path / "file" / "pair.png")


def test_a_model_need_not_be_given(model, monkeypatch):
    monkeypatch.setattr("sfam_bench.api.models.default_model", lambda: model)
    assert sfam_bench.explain(None, NOISE, NOISE.flip(2)).score == sfam_bench.explain(model, NOISE, NOISE.flip(2)).score
    assert not math.isnan(sfam_bench.score(None, NOISE, NOISE.flip(2), "sfam").attrs["score"])


def test_reports_do_not_pay_for_torch():
    code = "import sys, sfam_bench.report, sfam_bench.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_is_lazy_and_says_what_it_has():
    code = "import sys, sfam_bench; print(dir(sfam_bench)); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(f"'{name}'" in done.stdout for name in ("explain", "score", "show", "default_model"))
    with pytest.raises(AttributeError, match="has no attribute 'explian'"):
        _ = sfam_bench.explian


def test_a_prototype_has_a_map_for_each_of_its_images_and_a_vector_none(model):
    query, *others = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    found = sfam_bench.explain(model, query, others, "similarity_decomposition")
    assert found.reference.shape == (3, 3, 32, 32)
    assert found.reference_maps["similarity_decomposition"].shape == (3, 32, 32)
    embeddings = model.encode(torch.stack(others)).embeddings.mean(dim=0, keepdim=True)
    vector = sfam_bench.explain(model, query, Vectors(embeddings), "similarity_decomposition")
    assert vector.reference is None
    assert vector.reference_maps == {}
    assert vector.score == pytest.approx(found.score)
    torch.testing.assert_close(*(one.query_maps["similarity_decomposition"] for one in (vector, found)))
    single = sfam_bench.explain(model, query, others[:1], "sfam")
    assert torch.equal(
        single.query_maps["sfam"], sfam_bench.explain(model, query, others[0], "sfam").query_maps["sfam"]
    )
    assert [axes.get_title() for axes in sfam_bench.show(found).axes] == [
        "query",
        *(f"reference {i}" for i in range(3)),
    ] + [""] * 4
    assert [axes.get_title() for axes in sfam_bench.show(vector).axes] == ["query", ""]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (lambda query: [], "the list of reference images is empty"),
        (lambda query: [NOISE, query], "a query has the pixels of its own support reference 1"),
        (lambda query: Vectors(torch.ones(1, 5)), "give vectors of the same space"),
    ],
)
def test_references_that_are_none_are_refused(model, reference, said):
    query = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(6))
    with pytest.raises(UserError, match=said):
        sfam_bench.explain(model, query, reference(query), "sfam")


def test_a_folder_is_ranked_and_saved_as_a_page(model, tmp_path):
    for label in ("robin", "wren"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            picture(10 * number + len(label)).save(tmp_path / "photos" / label / f"{number}.png")
    picture(77).save(tmp_path / "query.png")
    found = sfam_bench.explain_ranking(model, tmp_path / "query.png", tmp_path / "photos", 2, "sfam", label="wren")
    assert [result.place for result in found.results[:2]] == [1, 2]
    assert {result.label for result in found.results} <= {"robin", "wren"}
    assert found.searched == 6
    sfam_bench.save_ranking(found, tmp_path / "page.html", "<b>list</b>")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;list&lt;/b&gt;" in page
    assert all(result.image_id in page for result in found.results)
    given = {"a": picture(1), "b": picture(2)}
    with pytest.raises(UserError, match="1 gallery images have no label, such as b"):
        sfam_bench.explain_ranking(model, picture(3), given, labels={"a": "x"})
