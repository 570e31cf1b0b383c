"""Ranked lists: order, maps, margins, the first wrong result, and what is left out."""

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.evaluation.ranking import explain_list
from sfam_bench.explainers.controls import Chance
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.models.similarity_model import encode_batch
from tests.contract import SETUPS, tiny

MODEL = tiny(*SETUPS[0])
IMAGES = torch.nn.functional.interpolate(
    torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(4)), (32, 32), mode="bilinear"
)
QUERY, GALLERY = IMAGES[0], dict(zip("abcdefgh", IMAGES[1:], strict=True))
LABELS = dict(zip("abcdefgh", "xyxyzxyz", strict=True))
METHODS = {"sfam": SFAM()}


def ranked(k, **more):
    return explain_list(MODEL, QUERY, GALLERY.__getitem__, [*GALLERY], k, METHODS, batch_size=3, **more)


def scores():
    return {name: float(MODEL.similarity(MODEL(QUERY[None]), MODEL(image[None]))) for name, image in GALLERY.items()}


@torch.no_grad()
def test_the_list_is_in_order_of_the_score():
    found, known = ranked(5), scores()
    assert [result.image_id for result in found.results] == sorted(known, key=known.__getitem__, reverse=True)[:5]
    assert [result.score for result in found.results] == pytest.approx(sorted(known.values(), reverse=True)[:5], 1e-5)
    assert [result.place for result in found.results] == [1, 2, 3, 4, 5]
    assert all(result.rival_id is result.margin is result.is_right is None for result in found.results)
    assert found.searched == 8


@pytest.mark.slow
def test_maps_are_those_of_the_pairs_and_of_the_margins():
    found = ranked(4).results
    for result, following in zip(found, [*found[1:], None], strict=True):
        pairs = PairBatch(("query",), (result.image_id,), QUERY[None], result.image[None])
        raw = SFAM()(MODEL, encode_batch(MODEL, Similarity(), pairs), pairs)
        torch.testing.assert_close(
            result.query_maps["sfam"], upsample(normalise(raw), (32, 32))[0], rtol=1e-4, atol=1e-5
        )
        turned = PairBatch((result.image_id,), ("query",), result.image[None], QUERY[None])
        raw = SFAM()(MODEL, encode_batch(MODEL, Similarity(), turned), turned)
        torch.testing.assert_close(result.own_maps["sfam"], upsample(normalise(raw), (32, 32))[0], rtol=1e-4, atol=1e-5)
        if following is None:
            assert result.above_next == {}
            continue
        triplet = PairBatch(("query",), ("r",), QUERY[None], result.image[None], ("n",), following.image[None])
        raw = SFAM()(MODEL, encode_batch(MODEL, Margin(), triplet), triplet)
        torch.testing.assert_close(
            result.above_next["sfam"], upsample(normalise(raw), (32, 32))[0], rtol=1e-3, atol=1e-4
        )


def test_random_methods_depend_on_the_query():
    maps = [
        explain_list(MODEL, query, GALLERY.__getitem__, [*GALLERY], 8, {"chance": Chance()}).results
        for query in (QUERY, QUERY, QUERY.flip(2))
    ]
    one, same, other = ({one.image_id: one for one in results}["a"] for results in maps)
    assert torch.equal(one.query_maps["chance"], same.query_maps["chance"])
    assert not torch.equal(one.query_maps["chance"], other.query_maps["chance"])
    assert not torch.equal(one.query_maps["chance"], one.own_maps["chance"])


@torch.no_grad()
def test_margins_are_over_the_best_of_another_class_and_the_first_wrong_one_is_shown():
    known = scores()
    order = sorted(known, key=known.__getitem__, reverse=True)
    for label in "xyz":
        found = ranked(1, labels=LABELS, label=label)
        wrong = next(name for name in order if LABELS[name] != label)
        assert [result.image_id for result in found.results] == list(dict.fromkeys([order[0], wrong]))
        assert [result.place for result in found.results] == list(dict.fromkeys([1, order.index(wrong) + 1]))
        for result in found.results:
            rival = next(name for name in order if LABELS[name] != LABELS[result.image_id])
            assert result.rival_id == rival
            assert result.margin == pytest.approx(known[result.image_id] - known[rival], abs=1e-6)
            assert result.is_right == (LABELS[result.image_id] == label)


def test_the_query_itself_is_left_out():
    gallery = {**GALLERY, "itself": QUERY}
    found = explain_list(MODEL, QUERY, gallery.__getitem__, [*gallery], 9, METHODS)
    assert found.excluded == ("itself",)
    assert [result.image_id for result in found.results] == [result.image_id for result in ranked(9).results]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ranked(0), "give at least 1"),
        (lambda: ranked(1, labels=LABELS, label="w"), "the gallery has no class 'w': leave the query's class out"),
        (lambda: ranked(1, labels=dict.fromkeys(GALLERY, "robin"), label="robbin"), r"'robbin': did you mean robin\?"),
        (lambda: explain_list(MODEL, QUERY, GALLERY.__getitem__, [], 1, METHODS), "the gallery is empty"),
        (lambda: explain_list(MODEL, QUERY, lambda _: QUERY, ["a"], 1, METHODS), "no image but the query"),
        (lambda: explain_list(MODEL, QUERY[:, 1:], GALLERY.__getitem__, ["a"], 1, METHODS), "give both one size"),
    ],
)
def test_bad_lists_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
