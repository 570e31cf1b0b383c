"""Ranks, recall@1 and margins while pixels go: by hand, best for the truth, and without a pass of their own."""

from copy import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfam_bench.core.baselines import MeanColour, Zeros
from sfam_bench.core.errors import UserError
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.engine.modes import without_grad
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.controls import Chance
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.decisions import MarginArea, PixelsUntil, RetrievalArea
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.metrics.shared.steps import Midpoint, Trapezoid
from sfam_bench.models.similarity_model import encode_pairs
from sfam_bench.retrieval.recall import Catalogue
from sfam_bench.retrieval.search import Roles
from tests.contract import SETUPS, SIZE, gallery, pairs, tiny

HERE = {"baseline": Zeros(), "steps": Trapezoid(4)}
# Red is what query and reference share, green what query and negative share; sums of both as pixels go in turn:
IMAGE = torch.tensor([[[4.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])[None]
TRUTH = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])  # 6 and 2, 2 and 2, 0 and 2, 0 and 1, none
SHARED = [HealthCheck.function_scoped_fixture]
CARRIED = settings(max_examples=20, deadline=None, suppress_health_check=SHARED)

# The gallery: the query (which would come first if it were not left out), two of its class, two of another.
QUERY, REFERENCE, NEGATIVE = (9.0, 9.0, 9.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
ITEMS = [QUERY, REFERENCE, NEGATIVE, (0.5, 0.0, 0.0), (0.0, 0.25, 0.0)]
LABELS, IDS = (0, 0, 1, 0, 1), ("0", "r0", "n0", "own", "rest")


def by_trapezoids(curve):
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


@pytest.fixture
def seen(explained):
    """Build an Explained of one query with a negative and a gallery."""

    def make(maps=TRUTH, image=IMAGE, items=ITEMS, labels=LABELS, ids=IDS, reference=REFERENCE):
        plain = explained(image, maps, reference)
        negative = torch.tensor(NEGATIVE)[None, :, None, None].expand_as(image).contiguous()
        batch = replace(plain.scene.pairs, negative_ids=("n0",), negative=negative)
        catalogue = Catalogue(torch.tensor(items), torch.tensor(labels), tuple(ids))
        return Explained(Scene(plain.scene.model, plain.scene.encoded, batch, gallery=catalogue), maps)

    return make


def value(metric, given):
    return metric(given).values.item()


def reasons(metric, given):
    found = [reason for reason, flags in metric(given).reasons.items() if flags.any()]
    assert metric(given).values.isnan().any() == bool(found)
    return found


# By hand


AREAS = {
    "rank": [1, 1 / 2, 0, 0, 0],  # first, second with the negative beside it, then all others are at least as near
    "recall_at_1": [1, 0, 0, 0, 0],  # a tie is no hit
    "average_precision": [1, (1 / 2 + 2 / 3) / 2, 1 / 2, 1 / 2, 1 / 2],
}


@pytest.mark.parametrize("of", AREAS)
def test_areas_of_retrieval_by_hand(seen, of):
    assert value(RetrievalArea(of, **HERE), seen()) == pytest.approx(by_trapezoids(AREAS[of]))


def test_the_curve_backwards_is_the_insertion_of_the_inverse(seen):
    # 0, green 1, green 2, then red 2 beside green 2, then all of it
    for of, curve in AREAS.items():
        assert value(RetrievalArea(of, "insertion", **HERE), seen(-TRUTH)) == pytest.approx(by_trapezoids(curve))
        gap = value(RetrievalArea(of, "insertion_minus_deletion", **HERE), seen())
        parts = [value(RetrievalArea(of, walk, **HERE), seen()) for walk in ("insertion", "deletion")]
        assert gap == pytest.approx(parts[0] - parts[1])


def test_areas_of_the_margin_by_hand(seen):
    # red less green, in units of the whole: 4 of 4, then a tie, then the negative is nearer
    assert value(MarginArea("deletion", **HERE), seen()) == pytest.approx(by_trapezoids([1, 0, -1 / 2, -1 / 4, 0]))
    assert value(MarginArea("deletion", **HERE), seen(-TRUTH)) == pytest.approx(by_trapezoids([1, 5 / 4, 6 / 4, 1, 0]))
    assert value(MarginArea("insertion", **HERE), seen()) == pytest.approx(by_trapezoids([0, 1, 6 / 4, 5 / 4, 1]))
    both = value(MarginArea("insertion_minus_deletion", **HERE), seen())
    assert both == pytest.approx(17 / 16 + 1 / 16)


@pytest.mark.parametrize("decision", ["reference", "class", "margin"])
def test_a_tie_loses_the_decision(seen, decision):
    assert value(PixelsUntil(decision, **HERE), seen()) == 1 / 4
    assert value(PixelsUntil(decision, **HERE), seen(-TRUTH)) == 1  # lost with the last pixel alone
    assert value(PixelsUntil(decision, "insertion", **HERE), seen()) == 1 / 4
    assert value(PixelsUntil(decision, "insertion", **HERE), seen(-TRUTH)) == 1


def test_another_of_the_class_may_take_the_place_of_the_reference(seen):
    items = [*ITEMS[:3], (0.5, 1.0, 0.0), ITEMS[4]]  # 5, 3, 2 (as the negative), 1, 0
    assert value(PixelsUntil("reference", **HERE), seen(items=items)) == 1 / 4
    assert value(PixelsUntil("class", **HERE), seen(items=items)) == 2 / 4


def test_values_are_those_of_the_first_step_that_is_sampled(seen):
    assert value(PixelsUntil("margin", baseline=Zeros(), steps=Trapezoid(2)), seen()) == 2 / 4
    image, maps = IMAGE.repeat(1, 1, 5, 5), TRUTH.repeat(1, 5, 5)  # 100 pixels; lost when the 25 of red 4 are gone
    assert value(PixelsUntil("margin", baseline=Zeros(), steps=Midpoint(20)), seen(maps, image)) == pytest.approx(0.28)


def test_what_is_never_lost_takes_all_pixels(seen):
    always = [QUERY, (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]
    given_a_colour = {"items": always, "labels": LABELS[:3], "ids": IDS[:3]}
    metric = PixelsUntil("reference", baseline=MeanColour(), steps=Trapezoid(4))  # the mean keeps red and green
    assert value(metric, seen(**given_a_colour)) == 1
    assert reasons(replace(metric, walk="insertion"), seen(**given_a_colour)) == ["holds_when_empty"]


def test_a_gallery_of_two_has_one_rank(seen):
    assert value(RetrievalArea("rank", **HERE), seen(items=ITEMS[:2], labels=(0, 0), ids=IDS[:2])) == 1


# What there is nothing to say about


def test_a_reference_that_is_not_found_to_begin_with_is_not_lost(seen):
    nearer = [*ITEMS[:4], (0.0, 4.0, 0.0)]  # green 2 by 4 is more than red 6
    assert reasons(PixelsUntil("reference", **HERE), seen(items=nearer)) == ["not_matched"]
    assert reasons(PixelsUntil("class", **HERE), seen(items=nearer)) == ["not_matched"]
    assert reasons(PixelsUntil("margin", **HERE), seen(items=nearer)) == []
    assert value(RetrievalArea("rank", **HERE), seen(items=nearer)) < 1 / 4


def test_a_negative_that_is_nearer_is_not_overtaken(seen):
    green = IMAGE + torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # 6 in all, and as much red
    assert reasons(PixelsUntil("margin", **HERE), seen(image=green)) == ["not_ahead"]
    assert reasons(MarginArea("deletion", **HERE), seen(image=green)) == ["zero_range"]
    assert reasons(MarginArea("deletion", min_range=1.0, **HERE), seen()) == []  # 1 to 0
    assert reasons(MarginArea("deletion", min_range=1.01, **HERE), seen()) == ["zero_range"]


CLASSES = {(0, 1, 1, 2, 1): ["alone_in_class", "other_class"], (0, 1, 1, 0, 1): ["other_class"]}


@pytest.mark.parametrize("labels", CLASSES)
def test_what_has_no_class_in_common_has_a_rank_and_no_recall(seen, labels):
    other = seen(labels=labels)
    for metric in (RetrievalArea("recall_at_1", **HERE), RetrievalArea("average_precision", **HERE)):
        assert reasons(metric, other) == CLASSES[labels]
    assert reasons(PixelsUntil("class", **HERE), other)[: len(CLASSES[labels])] == CLASSES[labels]
    assert value(RetrievalArea("rank", **HERE), other) == value(RetrievalArea("rank", **HERE), seen())
    assert value(PixelsUntil("reference", **HERE), other) == 1 / 4


def test_an_image_is_not_found_for_itself(seen):
    itself = seen(ids=("q", "0", *IDS[2:]))
    batch = replace(itself.scene.pairs, reference_ids=("0",))
    itself = Explained(replace(itself.scene, pairs=batch), TRUTH)
    assert reasons(RetrievalArea("rank", **HERE), itself)[0] == "self_pair"
    assert "self_pair" in reasons(PixelsUntil("reference", **HERE), itself)


def test_a_reference_that_is_not_searched_has_no_rank(seen):
    plain = seen()
    searched = torch.tensor([True, False, True, True, True])
    searching = replace(plain.scene.gallery, roles=Roles(torch.ones(5, dtype=torch.bool), searched))
    given = Explained(replace(plain.scene, gallery=searching), TRUTH)
    assert reasons(RetrievalArea("rank", **HERE), given) == ["not_searched"]
    assert reasons(PixelsUntil("class", **HERE), given)[0] == "not_searched"


def test_an_image_that_is_not_in_the_gallery_is_named(seen):
    with pytest.raises(UserError, match="r0 is not in the gallery"):
        RetrievalArea("rank", **HERE)(seen(ids=("0", "q", *IDS[2:])))


def test_choices_are_checked():
    for metric in (RetrievalArea("rank"), MarginArea("deletion"), PixelsUntil("class")):
        wrong = copy(metric)
        object.__setattr__(wrong, "walk", "both")  # as out of YAML
        with pytest.raises(UserError, match="walk is 'both': choose one of deletion, insertion"):
            wrong.__post_init__()


# What must hold for any map

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)
NINE = Trapezoid(9)


def images(red, green):
    return torch.stack([torch.tensor(red), torch.tensor(green), torch.zeros(9)]).view(1, 3, 3, 3)


colours = st.lists(EIGHTHS, min_size=9, max_size=9)
orders = st.permutations(range(9)).map(lambda order: torch.tensor(order).float().view(1, 3, 3))
WAYS = ("deletion", "insertion")
EVERY = [
    *(RetrievalArea(of, walk, Zeros(), NINE) for of in AREAS for walk in WAYS),
    *(
        PixelsUntil(d, walk, Zeros(), NINE)
        for d in ("reference", "class", "margin")
        for walk in ("deletion", "insertion")
    ),
    *(MarginArea(walk, Zeros(), NINE, 1 / 16) for walk in WAYS),
]


@CARRIED
@given(colours, colours, orders)
def test_the_truth_is_best_and_its_inverse_worst(seen, red, green, order):
    """With one item of another class, the decisions depend on red less green, pixel by pixel."""
    image = images(red, green)
    truth = image[:, 0] - image[:, 1]
    alone = {"items": ITEMS[:3], "labels": LABELS[:3], "ids": IDS[:3]}
    three = [seen(maps, image, **alone) for maps in (truth, order, -truth)]
    for metric in EVERY:
        best, some, worst = (metric(one).values.item() for one in three)
        if torch.tensor([best, some, worst]).isnan().any():
            assert torch.tensor([best, some, worst]).isnan().all()  # reasons are those of the pair
            continue
        low, high = (best, worst) if not metric.higher_is_better else (worst, best)
        assert low - 1e-6 <= some <= high + 1e-6, metric


@CARRIED
@given(colours, colours, orders, st.sampled_from([0.25, 3.0, 64.0]))
def test_values_lie_in_their_range_and_scaling_a_map_changes_nothing(seen, red, green, order, factor):
    one, scaled = (seen(maps, images(red, green)) for maps in (order, order * factor))
    for metric in EVERY:
        found = metric(one).values.item()
        assert metric(scaled).values.item() == pytest.approx(found, abs=0, nan_ok=True)
        low, high = metric.card.range
        assert found != found or low <= found <= high + 1e-6


@CARRIED
@given(colours, colours, orders)
def test_more_steps_see_a_lost_decision_no_later(seen, red, green, order):
    given_these = seen(order, images(red, green))
    coarse, fine = (PixelsUntil("reference", "deletion", Zeros(), Trapezoid(n))(given_these).values for n in (3, 9))
    assert fine.isnan().equal(coarse.isnan())
    assert not (fine > coarse).any()


# On a network


def few(metrics, target=None, catalogue=gallery, explainers=None):
    """Records of an evaluation, and how many images it passed."""
    model, batch, rows = tiny(*SETUPS[0]), pairs(), []
    run = without_grad(model, model)
    passes = Passes(lambda images: (rows.append(len(images)), run(images))[1], 1)
    made = explainers or {"sfam": SFAM(), "again": SFAM(), "chance": Chance()}
    found = catalogue and catalogue(model, batch)
    (shard,) = evaluate(model, target or Similarity(), [batch], made, metrics, "made", passes=passes, gallery=found)
    return shard.records, sum(rows)


STEPS = Midpoint(6)
WALKS = {walk: Perturbation(walk, MeanColour(), STEPS, -1.0) for walk in ("deletion", "insertion")}
DECISIONS = {
    **{of: RetrievalArea(of, "insertion_minus_deletion", MeanColour(), STEPS) for of in AREAS},
    **{
        decision: PixelsUntil(decision, "deletion", MeanColour(), STEPS)
        for decision in ("reference", "class", "margin")
    },
    "found": PixelsUntil("reference", "insertion", MeanColour(), STEPS),
    "area": MarginArea("insertion_minus_deletion", MeanColour(), STEPS),
}


def test_beside_deletion_and_insertion_they_take_no_pass():
    plain, before = few(WALKS)
    found, after = few(WALKS | DECISIONS)
    assert before == after == 2 * 3 * 6 * 2  # walks, pairs, steps, and methods that differ
    assert [r for r in found if r.metric not in DECISIONS] == plain
    for name in DECISIONS:
        own = [r for r in found if r.metric == name]
        assert len(own) == 9
        assert any(r.flag == "" for r in own)
        assert [r.value for r in own[:3]] == pytest.approx([r.value for r in own[3:6]], nan_ok=True)  # lent


def test_alone_they_ask_of_those_pairs_that_they_measure():
    found, passed = few({"found": DECISIONS["found"]}, explainers={"sfam": SFAM()})
    assert passed == 6 * sum(r.metric == "found" and r.flag == "" for r in found) == 6


def test_without_a_gallery_or_negatives_there_is_no_record():
    found, _ = few(WALKS | DECISIONS, catalogue=None)
    assert {r.metric for r in found} & {*DECISIONS} == {"margin", "area"}


def test_the_ends_are_looked_up_once_for_all(monkeypatch):
    calls = []
    whole = Catalogue.find
    monkeypatch.setattr(Catalogue, "find", lambda *given: (calls.append(given), whole(*given))[1])
    few(WALKS | DECISIONS)
    assert len(calls) == 3 * 2 + 3 * 2 * 2  # pairs by ends, and pairs by walks by methods that differ


@pytest.mark.parametrize("walk", ["deletion", "insertion", "insertion_minus_deletion"])
def test_the_area_of_the_margin_is_that_of_the_target_margin(walk):
    model, batch = tiny(*SETUPS[1]), pairs()
    maps = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(2)) - 0.5
    scenes = [
        Scene(model, encode_pairs(model, target, batch.query, batch.reference, batch.negative), batch)
        for target in (Similarity(), Margin())
    ]
    ours, target = (MarginArea(walk, MeanColour(), STEPS)(Explained(scene, maps)).values for scene in scenes)
    theirs = Perturbation(walk, MeanColour(), STEPS)(Explained(scenes[1], maps)).values
    assert ours.isfinite().any()
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)
