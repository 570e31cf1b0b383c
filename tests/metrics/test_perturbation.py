"""Deletion and insertion by hand, and what must hold for any score."""

from itertools import pairwise
from math import inf

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfam_bench.core.baselines import Blur, MeanColour, Zeros
from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import ranks
from sfam_bench.core.metric_card import metric_card
from sfam_bench.metrics.perturbation import AreaError, Midpoint, Perturbation, Trapezoid, Walk
from sfam_bench.metrics.shared.base import no_reason

ALL = torch.tensor([True])
RED = torch.tensor([[8.0, 4.0], [2.0, 2.0]]) / 8


def red_image(red):
    image = torch.zeros(1, 3, *red.shape)
    image[0, 0] = red
    return image


def measure(explained, walk, maps, baseline=None, intervals=4, min_range=0.0, red=RED):
    metric = Perturbation(walk, baseline or Zeros(), Trapezoid(intervals), min_range)
    return float(metric(explained(red_image(red), maps[None])).values)


def test_two_by_two_by_hand(explained):
    # the score is the mean of red: 1/2 in full; shares of it left after 0..4 pixels, most relevant first
    deletion = [1, 1 / 2, 1 / 4, 1 / 8, 0]
    insertion = [0, 1 / 2, 3 / 4, 7 / 8, 1]
    area = lambda c: sum((a + b) / 2 / 4 for a, b in pairwise(c))  # noqa: E731
    assert measure(explained, "deletion", RED) == pytest.approx(area(deletion))
    assert measure(explained, "insertion", RED) == pytest.approx(area(insertion))
    assert measure(explained, "insertion_minus_deletion", RED) == pytest.approx(area(insertion) - area(deletion))
    backwards = measure(explained, "deletion", -RED)
    # 1, then without a 2, both 2s (tie: raster order), the 4, the 8
    assert backwards == pytest.approx(area([1, 7 / 8, 3 / 4, 1 / 2, 0]))


def test_the_curve_itself_by_hand(explained):
    seen = explained(red_image(RED), RED[None])
    deletion, insertion = (Walk(way, Zeros(), Trapezoid(4)).scores(seen, ALL)[0] for way in ("deletion", "insertion"))
    assert deletion.tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 0])
    assert insertion.tolist() == pytest.approx([0, 1 / 4, 3 / 8, 7 / 16, 1 / 2])


def test_ties_are_broken_in_raster_order():
    assert ranks(torch.zeros(1, 2, 3)).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert ranks(torch.tensor([[[1.0, 2.0], [2.0, 0.0]]])).flatten().tolist() == [2, 0, 1, 3]


def test_zero_range_is_undefined_not_silent(explained):
    grey = torch.full((2, 2), 0.5)
    assert measure(explained, "deletion", RED, baseline=MeanColour(), min_range=0.05, red=grey) != pytest.approx(0)
    assert torch.tensor(measure(explained, "deletion", RED, baseline=MeanColour(), min_range=0.05, red=grey)).isnan()


@pytest.mark.parametrize("walk", ["deletion", "insertion"])
def test_the_mean_baseline_is_the_images_own_colour(explained, walk):
    seen = explained(red_image(RED), RED[None])
    assert float(seen.scene.base(MeanColour())) == pytest.approx(
        float(seen.scene.full())
    )  # linear score: no range at all
    assert Perturbation(walk, MeanColour(), Trapezoid(4))(seen).values.isnan().all()


def test_points_are_scored_once_for_all_metrics_and_ends_never_again(explained):
    seen = explained(red_image(RED), RED[None])
    images = []
    seen.scene.model.trunk.register_forward_hook(lambda module, given, _: images.append(len(given[0])))
    for walk in ("deletion", "insertion", "insertion_minus_deletion"):
        Perturbation(walk, Zeros(), Trapezoid(4), 0.0)(seen)
    assert images == [1, 16, 16]  # the baseline image, and one batch for the three points between the ends of each walk
    assert {(probe.direction, len(scores)) for (probe, _), scores in seen.answers.items()} == {
        ("insertion", 3),
        ("deletion", 3),
    }


@pytest.mark.parametrize("steps", [Trapezoid(4), Trapezoid(224), Midpoint(1), Midpoint(2), Midpoint(20)])
def test_weights_integrate_a_constant_exactly(steps):
    counts, weights = steps(50_176)
    assert counts[0] == 0
    assert counts[-1] == 50_176
    assert len(counts) == len(weights)
    assert sum(weights) == pytest.approx(1)


def test_midpoints_and_their_correction_by_hand():
    counts, weights = Midpoint(2)(100)
    assert counts == [0, 25, 75, 100]
    assert weights == pytest.approx([1 / 24, 11 / 24, 11 / 24, 1 / 24])
    assert Midpoint(1)(100)[1] == pytest.approx([1 / 12, 10 / 12, 1 / 12])


def test_two_baselines_of_one_name_are_refused(explained):
    seen = explained(torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8))
    first, same, other = (Perturbation("deletion", Blur(sigma), Midpoint(2), 0.0) for sigma in (0.1, 0.1, 0.3))
    assert first(seen).values.equal(same(seen).values)
    with pytest.raises(UserError, match="two baselines that are not equal have the name blur"):
        other(seen)
    renamed = Perturbation("deletion", Blur(0.3, name="blur_0.3"), Midpoint(2), 0.0)
    assert renamed(seen).values.isfinite().all()


@pytest.mark.parametrize("curve", [lambda x: x, lambda x: x**2, lambda x: torch.tensor(-4 * x).exp().item()])
def test_the_correction_makes_smooth_curves_more_exact(curve):
    pixels = 10**6
    counts, weights = Midpoint(20)(pixels)
    values = [curve(count / pixels) for count in counts]
    exact = sum(curve((k + 0.5) / 10_000) for k in range(10_000)) / 10_000
    corrected = abs(sum(w * v for w, v in zip(weights, values, strict=True)) - exact)
    plain = abs(sum(values[1:-1]) / 20 - exact)
    assert corrected < max(plain / 2, 1e-6)


def test_trapezoids_use_the_actual_fractions():
    counts, weights = Trapezoid(3)(4)  # 4 / 3 and 8 / 3 of a pixel round to 1 and 3
    assert counts == [0, 1, 3, 4]
    assert weights == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(red=st.lists(st.floats(0.01, 1), min_size=6, max_size=6), order=st.permutations(range(6)))
def test_for_an_additive_score_deletion_and_insertion_mirror_each_other(explained, red, order):
    seen = explained(red_image(torch.tensor(red).view(2, 3)), torch.tensor(order).float().view(1, 2, 3))
    deletion, insertion = (Walk(way, Zeros(), Trapezoid(6)).scores(seen, ALL) for way in ("deletion", "insertion"))
    torch.testing.assert_close(deletion + insertion, deletion[:, :1].expand_as(deletion))


def test_scaling_a_map_changes_nothing(explained):
    generator = torch.Generator().manual_seed(0)
    maps, image = torch.rand(1, 5, 7, generator=generator), torch.rand(1, 3, 5, 7, generator=generator)
    metric = Perturbation("insertion_minus_deletion", Zeros(), Midpoint(4))
    assert torch.equal(metric(explained(image, maps)).values, metric(explained(image, maps * 4)).values)


def test_the_true_map_is_best_and_its_inverse_worst(explained):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 4, generator=generator)
    metric = Perturbation("insertion_minus_deletion", Zeros(), Trapezoid(16))
    values = [metric(explained(image, torch.rand(1, 4, 4, generator=generator))).values.item() for _ in range(50)]
    assert metric(explained(image, image[:, 0])).values.item() > max(values)
    assert metric(explained(image, -image[:, 0])).values.item() < min(values)


def test_the_area_error_is_that_of_the_curve_in_full(explained):
    generator = torch.Generator().manual_seed(0)
    seen = explained(torch.rand(1, 3, 4, 4, generator=generator), torch.rand(1, 4, 4, generator=generator))
    coarse, full = (
        Perturbation("deletion", Zeros(), steps, 0.0)(seen).values for steps in (Midpoint(4), Trapezoid(16))
    )
    error = AreaError("deletion", Zeros(), Midpoint(4), Trapezoid(16), share=1.0, min_range=0.0)(seen).values
    torch.testing.assert_close(error, (coarse - full).abs())
    assert error > 1e-3


def test_the_share_of_curves_in_full_is_drawn_by_pair_and_method(explained):
    image = torch.rand(400, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = explained(image, image[:, 0])
    metric = AreaError("deletion", Zeros(), Midpoint(2), Trapezoid(4), share=0.1, min_range=-1.0)
    asked = no_reason(metric.reasons(seen))
    assert 20 <= asked.sum() <= 60
    assert torch.equal(metric(seen).values.isfinite(), asked)
    assert torch.equal(asked, ~metric(seen).reasons["not_drawn"])
    assert {pair for _, pair in seen.answers} == set(asked.nonzero()[:, 0].tolist())  # the others cost nothing
    other = AreaError("insertion", Zeros(), Midpoint(2), Trapezoid(4), share=0.1, min_range=-1.0)
    assert not torch.equal(no_reason(other.reasons(seen)), asked)


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        (Perturbation("deletion"), (-inf, inf)),
        (Perturbation("insertion", scale="raw"), (-inf, inf)),
        (Perturbation("insertion", scale="minmax", times=100), (0, 100)),
        (Perturbation("insertion_minus_deletion", scale="minmax"), (-1, 1)),
        (AreaError("deletion"), (0, inf)),
    ],
    ids=str,
)
def test_the_card_says_where_values_lie(metric, limits):
    assert metric_card(metric).range == limits


def test_the_card_counts_the_maps_of_references():
    made = {way: metric_card(Perturbation("deletion", degrade=way)).remakes for way in ("query", "reference", "both")}
    assert made == {"query": 0, "reference": 1, "both": 1}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.lists(st.floats(-1, 1), min_size=12, max_size=12), seed=st.integers(0, 99))
def test_a_minmaxed_area_lies_in_the_range_of_its_card(explained, weights, seed):
    image = torch.tensor(weights).view(1, 1, 3, 4).expand(1, 3, 3, 4).contiguous()
    maps = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(seed))
    seen = explained(image, maps)
    for walk in ("deletion", "insertion", "insertion_minus_deletion"):
        metric = Perturbation(walk, Zeros(), Midpoint(5), scale="minmax", times=100)
        value, (low, high) = metric(seen).values.item(), metric_card(metric).range
        assert value != value or low - 1e-3 <= value <= high + 1e-3


@pytest.mark.parametrize("share", [0, 1])
def test_a_whole_number_is_a_share(explained, share):
    seen = explained(red_image(RED), RED[None])
    metric = AreaError("deletion", Zeros(), Midpoint(2), Trapezoid(4), share=share, min_range=0)
    assert metric(seen).values.isfinite().all() == bool(share)
