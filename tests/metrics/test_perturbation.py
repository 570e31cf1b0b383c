"""Deletion and insertion by hand, and what must hold for any score."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.baselines import Mean, Zeros
from sfam_bench.metrics.perturbation import ClenshawCurtis, Perturbation, Trapezoid, curve, ranks

RED = torch.tensor([[8.0, 4.0], [2.0, 2.0]]) / 8


def red_image(red):
    image = torch.zeros(1, 3, *red.shape)
    image[0, 0] = red
    return image


def measure(explained, walk, maps, baseline=None, intervals=4, min_range=0.0, red=RED):
    metric = Perturbation(walk, baseline or Zeros(), Trapezoid(intervals), min_range)
    return float(metric(explained(red_image(red), maps[None])))


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
    metric = Perturbation("deletion", Zeros(), Trapezoid(4), 0.0)
    assert metric.scores(seen, "deletion")[0].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 0])
    assert metric.scores(seen, "insertion")[0].tolist() == pytest.approx([0, 1 / 4, 3 / 8, 7 / 16, 1 / 2])


def test_ties_are_broken_in_raster_order():
    assert ranks(torch.zeros(1, 2, 3)).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert ranks(torch.tensor([[[1.0, 2.0], [2.0, 0.0]]])).flatten().tolist() == [2, 0, 1, 3]


def test_zero_range_is_undefined_not_silent(explained):
    grey = torch.full((2, 2), 0.5)
    assert measure(explained, "deletion", RED, baseline=Mean(), min_range=0.05, red=grey) != pytest.approx(0)
    assert torch.tensor(measure(explained, "deletion", RED, baseline=Mean(), min_range=0.05, red=grey)).isnan()


@pytest.mark.parametrize("walk", ["deletion", "insertion"])
def test_the_mean_baseline_is_the_images_own_colour(explained, walk):
    seen = explained(red_image(RED), RED[None])
    assert float(seen.scene.base(Mean())) == pytest.approx(float(seen.scene.full()))  # linear score: no range at all
    assert Perturbation(walk, Mean(), Trapezoid(4))(seen).isnan().all()


def test_end_points_are_scored_once_for_all_methods(explained, monkeypatch):
    seen = explained(red_image(RED), RED[None])
    passes = []
    score = type(seen.scene).score
    monkeypatch.setattr(type(seen.scene), "score", lambda self, images: (passes.append(1), score(self, images))[1])
    for walk in ("deletion", "insertion", "insertion_minus_deletion"):
        Perturbation(walk, Zeros(), Trapezoid(4), 0.0)(seen)
    assert len(passes) == 1 + 3 + 3  # the baseline image, and the points between the ends of either walk


@pytest.mark.parametrize("steps", [Trapezoid(4), Trapezoid(224), ClenshawCurtis(8), ClenshawCurtis(16)])
def test_weights_integrate_a_constant_exactly(steps):
    counts, weights = steps(50_176)
    assert counts[0] == 0
    assert counts[-1] == 50_176
    assert sum(weights) == pytest.approx(1)


def test_clenshaw_curtis_has_simpsons_weights_at_two_intervals():
    counts, weights = ClenshawCurtis(2)(100)
    assert counts == [0, 50, 100]
    assert weights == pytest.approx([1 / 6, 4 / 6, 1 / 6])


def test_clenshaw_curtis_is_exact_for_polynomials_of_its_degree():
    counts, weights = ClenshawCurtis(8)(10**9)
    for power in range(9):
        found = sum(w * (c / 10**9) ** power for w, c in zip(weights, counts, strict=True))
        assert found == pytest.approx(1 / (power + 1), abs=1e-8)


def test_trapezoids_use_the_actual_fractions():
    counts, weights = Trapezoid(3)(4)  # 4 / 3 and 8 / 3 of a pixel round to 1 and 3
    assert counts == [0, 1, 3, 4]
    assert weights == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])


@settings(max_examples=25, deadline=None)
@given(red=st.lists(st.floats(0.01, 1), min_size=6, max_size=6), order=st.permutations(range(6)))
def test_for_an_additive_score_deletion_and_insertion_mirror_each_other(red, order):
    image, maps = red_image(torch.tensor(red).view(2, 3)), torch.tensor(order).float().view(1, 2, 3)
    score = lambda images: images[:, 0].mean(dim=(1, 2))  # noqa: E731
    places, counts = ranks(maps), range(7)
    deletion = curve(score, image, torch.zeros_like(image), places, counts)
    insertion = curve(score, torch.zeros_like(image), image, places, counts)
    torch.testing.assert_close(deletion + insertion, deletion[:, :1].expand_as(deletion))


def test_scaling_a_map_changes_nothing(explained):
    generator = torch.Generator().manual_seed(0)
    maps, image = torch.rand(1, 5, 7, generator=generator), torch.rand(1, 3, 5, 7, generator=generator)
    metric = Perturbation("insertion_minus_deletion", Zeros(), ClenshawCurtis(4))
    assert torch.equal(metric(explained(image, maps)), metric(explained(image, maps * 4)))


def test_the_true_map_is_best_and_its_inverse_worst(explained):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 4, generator=generator)
    metric = Perturbation("insertion_minus_deletion", Zeros(), Trapezoid(16))
    values = [metric(explained(image, torch.rand(1, 4, 4, generator=generator))).item() for _ in range(50)]
    assert metric(explained(image, image[:, 0])).item() > max(values)
    assert metric(explained(image, -image[:, 0])).item() < min(values)
