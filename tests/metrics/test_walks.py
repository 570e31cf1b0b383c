"""Walks in either order, of either image or both, worked out by hand; and the curves that are kept of them."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfam_bench.core.baselines import MeanColour, Zeros
from sfam_bench.core.records import PairBatch, Reference, Term
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.metrics.localisation import PointingGame
from sfam_bench.metrics.perturbation import AreaError, Perturbation
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.steps import Chunks, Stride, Trapezoid
from sfam_bench.metrics.shared.walks import OtherWalk, Walk, curves

ALL = torch.tensor([True])
RED = torch.tensor([[8.0, 4.0], [2.0, 2.0]]) / 8
FIXTURE = [HealthCheck.function_scoped_fixture]


def red_image(red):
    image = torch.zeros(1, 3, *red.shape)
    image[0, 0] = red
    return image


def brightness(model, encoded, pairs):
    """A method whose map is the red of the query."""
    return pairs.query[:, 0]


@pytest.fixture
def both(explained):
    """A method that maps either image: mean red of the query (RED) times that of the reference (RED, falling twice)."""
    query, reference = red_image(RED), red_image(torch.tensor([[1.0, 2.0], [1.0, 4.0]]) / 8)
    first = explained(query, RED[None])
    scene, model = first.scene, first.scene.model
    pairs = PairBatch(("q",), ("r",), query, reference)
    encoded = type(scene.encoded)(
        scene.encoded.query,
        (Term(1.0, Reference.of(model.encode(reference))),),
        scene.encoded.passes,
    )
    seen = type(scene)(model, encoded, pairs)
    return Explained(seen, RED[None], "red", RED[None], partial(raw_maps, brightness))


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURE)
@given(
    values=st.lists(st.integers(-3, 3), min_size=12, max_size=12), direction=st.sampled_from(["deletion", "insertion"])
)
def test_the_other_order_is_the_other_direction_read_backwards(explained, values, direction):
    generator = torch.Generator().manual_seed(0)
    maps = torch.tensor(values).float().view(1, 3, 4)  # ties among them
    seen = explained(torch.rand(1, 3, 3, 4, generator=generator), maps, (1.0, -0.5, 2.0))
    mirror = "insertion" if direction == "deletion" else "deletion"
    least = Walk(direction, Zeros(), Trapezoid(12), "least").scores(seen, ALL)
    torch.testing.assert_close(least, Walk(mirror, Zeros(), Trapezoid(12)).scores(seen, ALL).flip(1))


def test_the_gap_of_the_orders_is_insertion_minus_deletion(explained):
    generator = torch.Generator().manual_seed(0)
    seen = explained(torch.rand(1, 3, 5, 7, generator=generator), torch.rand(1, 5, 7, generator=generator))
    least, most = (Perturbation("deletion", Zeros(), Trapezoid(35), 0.0, order=order) for order in ("least", "most"))
    both = Perturbation("insertion_minus_deletion", Zeros(), Trapezoid(35), 0.0)
    torch.testing.assert_close(least(seen).values - most(seen).values, both(seen).values)
    assert least.higher_is_better
    assert not most.higher_is_better


def test_least_relevant_first_by_hand(explained):
    seen = explained(red_image(RED), RED[None])
    found = Walk("deletion", Zeros(), Trapezoid(4), "least").scores(seen, ALL)[0]
    assert (found * 2).tolist() == pytest.approx([1, 7 / 8, 3 / 4, 1 / 2, 0])  # the last 2 in the raster goes first


def test_the_reference_goes_by_its_own_map(both):
    # 1/2 times mean red of the reference, 8/32 in full, without 4, then 2, then 1, then 1 of 8
    found = OtherWalk("deletion", Zeros(), Trapezoid(4), degrade="reference").scores(both, ALL)[0]
    assert (found * 16 * 4).tolist() == pytest.approx([8, 4, 2, 1, 0])
    back = OtherWalk("insertion", Zeros(), Trapezoid(4), degrade="reference").scores(both, ALL)[0]
    assert (back * 16 * 4).tolist() == pytest.approx([0, 4, 6, 7, 8])


def test_both_images_go_step_by_step(both):
    found = OtherWalk("deletion", Zeros(), Trapezoid(4), degrade="both").scores(both, ALL)[0]
    shares = [1, 1 / 2 * 4 / 8, 1 / 4 * 2 / 8, 1 / 8 * 1 / 8, 0]  # of the query's red, times of the reference's
    assert (found * 8).tolist() == pytest.approx(shares)
    metric = Perturbation("deletion", Zeros(), Trapezoid(4), 0.0, degrade="both")
    assert metric(both).values.item() == pytest.approx(sum(shares[1:4]) / 4 + 1 / 8)
    assert {len(answer) for answer in both.answers.values()} == {3}


def test_a_walk_of_the_reference_needs_its_map(both):
    alone = Explained(both.scene, both.maps, "saved", both.raw)
    metric = Perturbation("deletion", Zeros(), Trapezoid(4), 0.0, degrade="reference")
    assert metric(alone).reasons["not_drawn"].all()
    assert metric(alone).values.isnan().all()
    assert curves(alone, [metric]) == {}


def test_a_reference_whose_map_is_constant_says_so(both):
    flat = Explained(both.scene, both.maps, "flat", both.raw, lambda model, encoded, pairs: 0 * pairs.query[:, 0])
    metric = Perturbation("deletion", Zeros(), Trapezoid(4), 0.0, degrade="both")
    assert metric(flat).reasons["reference_map"].tolist() == [True]
    assert metric(flat).values.isnan().all()


@pytest.mark.parametrize("degrade", ["query", "reference", "both"])
def test_the_true_order_is_best_and_its_inverse_worst_whichever_image_goes(both, degrade):
    generator = torch.Generator().manual_seed(0)
    metric = Perturbation("insertion_minus_deletion", Zeros(), Trapezoid(4), 0.0, degrade=degrade)

    def gap(remake):
        maps = remake(both.scene.model, both.scene.encoded, both.scene.pairs)
        return metric(Explained(both.scene, maps, "", maps, remake)).values.item()

    best, worst = gap(brightness), gap(lambda *given: -brightness(*given))
    for _ in range(10):
        found = gap(lambda model, encoded, pairs: torch.rand(1, 2, 2, generator=generator))
        assert worst - 1e-6 <= found <= best + 1e-6
    assert worst < 0 < best


def test_random_maps_are_at_chance(explained):
    """An additive score: half of it is gone with half of the pixels, whichever they are, but for the draw."""
    count, generator = 400, torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 8, 8, generator=generator).expand(count, -1, -1, -1).contiguous()
    seen = explained(image, torch.rand(count, 8, 8, generator=generator))
    for walk, chance in (("deletion", 0.5), ("insertion", 0.5), ("insertion_minus_deletion", 0.0)):
        values = Perturbation(walk, Zeros(), Trapezoid(64), 0.0)(seen).values
        assert abs(values.mean() - chance) < 3 * values.std() / count**0.5
        assert values.std() > 0.01


def test_curves_are_those_of_all_pairs_by_name(explained):
    generator = torch.Generator().manual_seed(0)
    seen = explained(torch.rand(2, 3, 20, 20, generator=generator), torch.rand(2, 20, 20, generator=generator))
    metrics = [
        PointingGame(),
        AreaError("deletion", Zeros(), Trapezoid(4), Trapezoid(8), share=0.5),
        Perturbation("insertion_minus_deletion", Zeros(), Trapezoid(4), 0.0),
        Perturbation("deletion", Zeros(), Trapezoid(4), 0.0),
        Perturbation("deletion", Zeros(), Chunks(10), 0.0),
        Perturbation("deletion", Zeros(), Stride(1), 0.0, order="least"),
        Perturbation("deletion", MeanColour(), Trapezoid(4), -9.0),
    ]
    for metric in metrics[2:]:
        metric(seen)
    before = dict(seen.answers)
    found = curves(seen, metrics)
    names = [
        "insertion_zeros",
        "deletion_zeros",
        "deletion_zeros_10_steps",
        "deletion_zeros_least",
        "deletion_mean_colour",
    ]
    assert list(found) == names
    assert seen.answers.keys() == before.keys()  # nothing is asked for them
    fraction, scores = found["deletion_zeros"]
    assert fraction == [0, 0.25, 0.5, 0.75, 1]
    torch.testing.assert_close(scores, Walk("deletion", Zeros(), Trapezoid(4)).scores(seen, torch.tensor([True, True])))
    fraction, scores = found["deletion_zeros_least"]
    assert len(fraction) == scores.shape[1] == 65
    assert (fraction[0], fraction[-1]) == (0, 1)
    for at, column in zip(fraction, scores.T, strict=True):
        whole = Walk("deletion", Zeros(), Stride(1), "least").scores(seen, torch.tensor([True, True]))
        torch.testing.assert_close(column, whole[:, round(at * 400)])


def test_a_pair_that_no_metric_asks_has_no_curve(explained):
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    image[1] = 0
    seen = explained(image, image[:, 0])
    metric = Perturbation("deletion", Zeros(), Trapezoid(4), 0.01)
    assert metric(seen).reasons["zero_range"].tolist() == [False, True]
    (_, scores) = curves(seen, [metric])["deletion_zeros"]
    assert scores.isnan().any(dim=1).tolist() == [False, True]
