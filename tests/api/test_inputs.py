"""Each form in which a picture or many pairs may be given: the same map, or refused in one line."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError

from sfam_bench.api import evaluate, explain, explain_ranking, score
from sfam_bench.api.pairs import read_pairs
from sfam_bench.core.errors import UserError
from sfam_bench.core.references import Vectors
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.complexity import Gini
from tests.api.small import images, picture, small_model

MODEL = small_model()
PLAIN, OTHER, THIRD = picture(0), picture(1), picture(2)
LEVELS = np.asarray(PLAIN)
GREY = np.asarray(PLAIN.convert("L"))


def stored() -> bytes:
    content = io.BytesIO()
    PLAIN.save(content, "PNG")
    return content.getvalue()


SAME = {
    "bytes of a file": stored,
    "array, uint8": lambda: LEVELS,
    "array, floats": lambda: LEVELS / 255,
    "array, channels first": lambda: LEVELS.transpose(2, 0, 1),
    "array, channels first, float32": lambda: (LEVELS / 255).transpose(2, 0, 1).astype(np.float32),
    "array, a batch of one": lambda: LEVELS[None],
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_of_a_picture_gives_the_same_map(form: str) -> None:
    expected, found = explain(MODEL, PLAIN, OTHER, "sfam"), explain(MODEL, SAME[form](), OTHER, "sfam")
    assert torch.equal(found.query, expected.query)
    assert torch.equal(found.query_maps["sfam"], expected.query_maps["sfam"])


def test_grey_is_the_same_in_every_form() -> None:
    expected = explain(MODEL, PLAIN.convert("L"), OTHER, "sfam").query
    for grey in (GREY, GREY[..., None], GREY[None]):
        assert torch.equal(explain(MODEL, grey, OTHER, "sfam").query, expected)
    one = torch.from_numpy(GREY.copy())[None]
    assert torch.equal(explain(MODEL, one, one.flip(2), "sfam").query, (one / 255).expand(3, -1, -1))


def test_tensors_keep_their_size_and_bytes_are_scaled() -> None:
    first, second = images(2)
    expected = explain(MODEL, first, second, "sfam")
    batched = explain(MODEL, first[None], second[None], "sfam")
    assert torch.equal(batched.query_maps["sfam"], expected.query_maps["sfam"])
    levels = (images(2) * 255).round().byte()
    assert torch.equal(explain(MODEL, *levels, "sfam").query, levels[0] / 255)


SEVERAL = {
    "two batches": lambda: (images(3, 1), images(3, 2)),
    "two lists": lambda: ([*images(3, 1)], [*images(3, 2)]),
    "a list of pairs": lambda: ([*zip(images(3, 1), images(3, 2), strict=True)],),
    "zipped": lambda: (zip(images(3, 1), images(3, 2), strict=True),),
    "a frame": lambda: (pd.DataFrame({"query": [*images(3, 1)], "reference": [*images(3, 2)]}),),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_many_pairs_are_explained_as_one_by_one(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = explain(MODEL, *SEVERAL[form](), explainers=["sfam", "similarity_decomposition"], batch_size=2)
    assert len(found) == 3
    for made, query, reference in zip(found, images(3, 1), images(3, 2), strict=True):
        alone = explain(MODEL, query, reference, ["sfam", "similarity_decomposition"])
        assert made.score == pytest.approx(alone.score, abs=1e-6)
        for side in ("query_maps", "reference_maps"):
            for name, expected in getattr(alone, side).items():
                torch.testing.assert_close(getattr(made, side)[name], expected, atol=1e-5, rtol=1e-4)
    assert "explain" in capsys.readouterr().err  # the progress bar


def test_a_csv_of_pairs_has_paths_below_its_folder(tmp_path: Path) -> None:
    for name, made in {"a.png": PLAIN, "b.png": OTHER, "c.png": THIRD}.items():
        made.save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text("query,reference,negative\na.png,b.png,c.png\nb.png,c.png,a.png\n")
    first, second = explain(MODEL, tmp_path / "pairs.csv", explainers="sfam")
    assert (first.ids, second.ids) == (("a.png", "b.png", "c.png"), ("b.png", "c.png", "a.png"))
    assert first.score == pytest.approx(explain(MODEL, PLAIN, OTHER, "sfam", negative=THIRD).score, abs=1e-6)


RANDOM = ["chance", "smooth_grad"]  # seeded by the query and the reference


def test_random_methods_depend_on_the_pictures_alone(tmp_path: Path) -> None:
    """Not on whether other pairs are given too, nor on the form of a picture without a path."""
    PLAIN.save(tmp_path / "a.png")
    for query, reference, other in ((tmp_path / "a.png", OTHER, THIRD), (*images(3),)):
        alone = explain(MODEL, query, reference, RANDOM)
        found = explain(MODEL, [(reference, query), (query, reference), (query, other)], explainers=RANDOM)
        assert alone.ids == found[1].ids == (found[0].ids[1], found[0].ids[0], "negative")
        for name in RANDOM:
            torch.testing.assert_close(alone.query_maps[name], found[1].query_maps[name], atol=1e-5, rtol=1e-4)
        assert not torch.equal(alone.query_maps["chance"], found[2].query_maps["chance"])
    assert explain(MODEL, np.asarray(PLAIN), OTHER, "chance").ids == explain(MODEL, PLAIN, OTHER, "chance").ids


@pytest.mark.parametrize("name", [*RANDOM, "rise", "corr_rise", "kernel_shap", "sfam"])
def test_maps_of_other_images_are_the_query_maps_of_swapped_pairs(name: str) -> None:
    first, second, third = images(3)
    with_negative = explain(MODEL, first, second, name, negative=third)
    there, back, of_negative = explain(MODEL, [(first, second), (second, first), (third, first)], explainers=name)
    for found, expected in (
        (there.reference_maps, back.query_maps),
        (with_negative.reference_maps, back.query_maps),
        (with_negative.negative_maps, of_negative.query_maps),
    ):
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)
    assert not torch.equal(there.query_maps[name], there.reference_maps[name])


def test_ids_of_prototypes_and_vectors_are_made_of_their_content() -> None:
    vectors = MODEL.encode(images(2)).embeddings
    references = ["a.png", [PLAIN, OTHER], [OTHER, PLAIN], Vectors(vectors[:1]), Vectors(vectors[1:])]
    pairs, _ = read_pairs([(THIRD, reference) for reference in references])
    assert len({pair.ids for pair in pairs}) == len(references)
    assert [read_pairs(THIRD, reference)[0][0].ids for reference in references] == [pair.ids for pair in pairs]


def test_pairs_of_several_sizes_and_kinds_of_references_are_kept_in_order() -> None:
    vector = Vectors(MODEL.encode(images(1, 9)).embeddings)
    pairs = [(images(1)[0], images(1, 1)[0]), (PLAIN, [OTHER, THIRD]), (PLAIN, vector), (OTHER, THIRD)]
    found = explain(MODEL, pairs, explainers="sfam")
    assert [None if made.reference is None else made.reference.ndim for made in found] == [3, 4, None, 3]
    vectors = Vectors(MODEL.encode(images(2, 9)).embeddings)
    several = explain(MODEL, images(2, 1), vectors, "sfam")
    assert several[0].score == pytest.approx(explain(MODEL, images(2, 1)[0], vector, "sfam").score, abs=1e-6)


def test_names_objects_lists_and_mappings_mean_the_same() -> None:
    pair = images(2)
    forms = ("lafam", ["lafam"], LaFAM(), [LaFAM()], {"lafam": LaFAM()}, {"lafam": "lafam"})
    maps = [explain(MODEL, *pair, given).query_maps for given in forms]
    assert all([*found] == ["lafam"] and torch.equal(found["lafam"], maps[0]["lafam"]) for found in maps)
    mixed = explain(MODEL, *pair, ["sfam", SFAM(gamma=0.5), SFAM(gamma=2.0, relu=True)])
    assert [*mixed.query_maps] == ["sfam", "sfam(gamma=0.5)", "sfam(gamma=2.0, relu=True)"]
    tables = [score(MODEL, *pair, "sfam", given) for given in ("gini", Gini(), ["gini"], {"gini": Gini()})]
    assert all(table.equals(tables[0]) for table in tables)


def first_channel(model, encoded, pairs):
    return encoded.query.activations[:, 0]


def test_a_function_is_a_method_of_its_own_name() -> None:
    assert [*explain(MODEL, *images(2), first_channel).query_maps] == ["first_channel"]


ONE, MANY = images(1)[0], images(3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((MANY, MANY[:2]), "^query holds 3 images, and reference does not: give one for each, in the same order$"),
        ((MANY, ONE), "^query holds 3 images, and reference does not"),
        ((ONE, MANY), r"^query is one image and reference a batch of 3: give list\(reference\) for a prototype"),
        ((ONE, [MANY]), r"^reference 0 is a batch of 3 images, and one is expected: give one, such as batch\[0\]$"),
        ((PLAIN, [np.zeros((3, 8, 8, 3))]), "^reference 0 is a batch of 3 images, and one is expected"),
        (([ONE, ONE],), r"^pair 0 is of type Tensor: give \(query, reference\) or \(query, reference, negative\)$"),
        (([(ONE,)],), r"^pair 0 is of type tuple of 1: give \(query, reference\)"),
        (([],), "^the list holds no pairs: give at least one$"),
        ((MANY[:0], MANY[:0]), "^the list holds no pairs"),
        ((ONE,), "^reference is missing: give one, or a list, a frame or a CSV of pairs$"),
        (("one.png",), "^reference is missing"),
        ((pd.DataFrame({"query": ["a"]}),), "^the frame of pairs lacks the column reference: it has query$"),
        (
            (pd.DataFrame({"query": ["a"], "reference": ["b"], "label": [1]}),),
            "^the frame of pairs has the column label: keep only query, reference, negative, foreground, box$",
        ),
        (
            (pd.DataFrame({"query": ["a", "b"], "reference": ["b", None]}),),
            "^row 1 of the pairs has no reference: fill it in, or remove the column$",
        ),
        (("https://a.org/b.jpg", ONE), "^query https://a.org/b.jpg is an address: download it, and give the path or"),
        ((b"no image", ONE), r"^cannot read query \(.*\): give the bytes of an undamaged image$"),
        ((b"", ONE), r"^cannot read query \(it has no known image format\): give the bytes"),
        ((stored()[:-40], ONE), "^cannot read query"),
        ((".", ONE), r"^\. is a folder: give an image file$"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(given: tuple[object, ...], said: str) -> None:
    for call in (explain, score):
        with pytest.raises(UserError, match=said) as error:
            call(MODEL, *given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"negative": ONE}, "^negative has the pixels of its query query: give another image$"),
        ({"negative": []}, "^the list of negative images is empty"),
        ({"negative": torch.rand(3, 8, 8)}, r"^query is \(3, 32, 32\) and negative \(3, 8, 8\): give both one size"),
        ({"batch_size": 0}, "^batch_size is 0: expected a number of at least 1$"),
    ],
)
def test_a_negative_is_checked_as_a_reference_is(more: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        explain(MODEL, ONE, images(1, 5)[0], "sfam", **more)


def test_some_negatives_are_refused() -> None:
    first, second, third = images(3)
    with pytest.raises(UserError, match=r"^1 of 2 pairs have a negative: give one for each, or for none$"):
        explain(MODEL, [(first, second, third), (second, third)])
    with pytest.raises(UserError, match=r"^reference is missing: give one, or give negative"):
        explain(MODEL, [(first, second)], negative=third)


@pytest.mark.parametrize("call", [evaluate, score])
def test_a_pair_twice_is_refused_where_records_would_mix(call: object) -> None:
    frame = pd.DataFrame({"query": ["a.png"] * 2, "reference": ["b.png"] * 2})
    with pytest.raises(UserError, match=r"^pair 1 has query and reference of pair 0 \(a.png, b.png\): remove one$"):
        call(MODEL, frame)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: explain(MODEL, PLAIN, OTHER, how="mean"), "how is 'mean', of type str: give|parameter 'how'"),
        (lambda: explain(MODEL, [(PLAIN, OTHER)], batch_size=0), "batch_size is 0: expected a number of at least 1"),
        (lambda: explain(MODEL, [(PLAIN, OTHER)], batch_size=1.5), "expected a whole number|parameter 'batch_size'"),
        (lambda: explain(MODEL, PLAIN, [OTHER, THIRD, OTHER]), "reference 0 and reference 2 are the same image"),
        (lambda: evaluate(MODEL, [(PLAIN, OTHER)], batch_size=0), "batch_size is 0: expected a number of at least 1"),
        (lambda: evaluate(MODEL, [(PLAIN, OTHER)], target="similarity"), "target is 'similarity', of type str"),
        (lambda: explain_ranking(MODEL, PLAIN, {"a": OTHER}, k=2.5), "k is 2.5, of type float: give|parameter 'k'"),
        (lambda: score(MODEL, PLAIN, OTHER, box=(4, 3, 18000, 20000)), "the box of the query is"),
        (lambda: score(MODEL, PLAIN, OTHER, box=(0, 0, float("inf"), 9)), "the box of the query is"),
    ],
)
def test_what_is_of_another_type_or_range_is_said(call: Callable[[], object], why: str) -> None:
    with pytest.raises((UserError, TypeCheckError), match=why):  # the latter where shapes are checked
        call()
