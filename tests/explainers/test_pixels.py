"""Input x gradient, SmoothGrad, integrated gradients: identities in float64, and by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.core.baselines import BASELINES
from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot
from sfam_bench.core.targets import Similarity, score, swap_sides
from sfam_bench.explainers.input_x_gradient import InputXGradient
from sfam_bench.explainers.integrated_gradients import IntegratedGradients
from sfam_bench.explainers.shared import pixels
from sfam_bench.explainers.shared.pixels import image_gradient
from sfam_bench.explainers.shared.quadrature import nodes
from sfam_bench.explainers.smooth_grad import SmoothGrad
from sfam_bench.models.poolings import GMP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.explainers.networks import CLOSE, rectifiers, setting
from tests.parts import SIMILARITIES, TARGETS, total

METHODS = [InputXGradient(), SmoothGrad(samples=3), IntegratedGradients(steps=4)]
SIGNED = [InputXGradient(), SmoothGrad(samples=3, magnitude=False), IntegratedGradients(steps=4)]


def value(model, encoded, images):
    return score(model.similarity, model(images), encoded.terms).detach()


def by_hand(query, reference):
    """A pair of one pixel, whose embedding is its colour, under the dot product."""
    trunk = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(trunk.weight)
    model = SimilarityModel(trunk, Embedder(GMP(), normalise=False), Dot())
    images = [torch.tensor(colour).view(1, 3, 1, 1) for colour in (query, reference)]
    return model, encode_pairs(model, Similarity(), *images), PairBatch(("q",), ("r",), *images)


def test_by_hand():
    case = by_hand([0.5, 0.25, 1.0], [1.0, 2.0, -1.0])
    assert InputXGradient()(*case).tolist() == [[[0.0]]]  # 0.5 + 0.5 - 1
    assert IntegratedGradients(steps=1)(*case).tolist() == [[[0.0]]]
    assert SmoothGrad(samples=2)(*case).tolist() == [[[4.0]]]
    assert SmoothGrad(samples=2, magnitude=False)(*case).tolist() == [[[2.0]]]
    assert SmoothGrad(samples=2, times_input=True)(*case).tolist() == [[[2.0]]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_gradient_is_the_slope_of_the_target(similarity, target):
    model, encoded, pairs = setting(similarity=similarity, target=target, normalise=False)
    step = torch.rand_like(pairs.query) * 1e-6
    rows = torch.arange(2)
    slope = (image_gradient(model, encoded, pairs.query, rows) * step).sum(dim=(1, 2, 3))
    rise = value(model, encoded, pairs.query + step) - value(model, encoded, pairs.query - step)
    torch.testing.assert_close(slope, rise / 2, rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_integrated_gradients_sum_to_the_change_of_the_score(similarity, baseline, target):
    def smooth():
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus())

    model, encoded, pairs = setting(smooth, similarity=similarity, target=target, head=nn.Linear(6, 4))
    change = value(model, encoded, pairs.query) - value(model, encoded, BASELINES[baseline](pairs.query))
    exact = IntegratedGradients(12, baseline, "gauss_legendre")(model, encoded, pairs)
    torch.testing.assert_close(total(exact), change, rtol=0, atol=1e-9)
    errors = {
        rule: float((total(IntegratedGradients(12, baseline, rule)(model, encoded, pairs)) - change).abs().max())
        for rule in ("right", "midpoint")
    }
    assert 0 < errors["midpoint"] < errors["right"] / 5


def test_quadratures_by_hand():
    like = torch.zeros(0, dtype=torch.float64)
    assert [part.tolist() for part in nodes("right", 2, like)] == [[0.5, 1.0], [0.5, 0.5]]
    assert [part.tolist() for part in nodes("midpoint", 2, like)] == [[0.25, 0.75], [0.5, 0.5]]
    at, weights = nodes("gauss_legendre", 3, like)
    for degree in range(6):
        assert float((weights * at**degree).sum()) == pytest.approx(1 / (degree + 1))


def test_in_one_step_from_black_it_is_input_x_gradient():
    case = setting(target="margin")
    one = IntegratedGradients(1, "zeros", "right")(*case)
    torch.testing.assert_close(one, InputXGradient()(*case), **CLOSE)


def test_smooth_grad_without_noise_is_input_x_gradient():
    case = setting()
    silent = SmoothGrad(2, noise=0.0, times_input=True, magnitude=False)(*case)
    torch.testing.assert_close(silent, InputXGradient()(*case), **CLOSE)


def test_on_cosine_without_biases_input_x_gradient_sums_to_zero():
    maps = InputXGradient()(*setting(lambda: rectifiers(bias=False)))
    assert total(maps).abs().max() < 1e-12 * maps.abs().sum()
    assert maps.abs().max() > 1e-6


def test_the_noise_hangs_on_pair_and_seed_alone_and_has_the_size_it_says():
    _, encoded, pairs = setting(size=(60, 50))
    images, rows, samples = encoded.query.images, torch.tensor([0, 1, 1]), torch.tensor([4, 0, 4])
    method = SmoothGrad(noise=0.2)
    noise = method.noisy_images(images, pairs, rows, samples) - images[rows]
    spans = (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))[rows]
    torch.testing.assert_close(noise.std(dim=(1, 2, 3)) / spans, torch.full_like(spans, 0.2), rtol=0.05, atol=0)
    again = method.noisy_images(images, pairs, rows[1:2], samples[1:2]) - images[1:2]
    assert torch.equal(again[0], noise[1])
    others = [SmoothGrad(noise=0.2, seed=1), method]
    elsewhere = [pairs, replace(pairs, reference_ids=("r9", "r9"))]
    for other, named in zip(others, elsewhere, strict=True):
        assert not torch.allclose(other.noisy_images(images, named, rows[:1], samples[:1]) - images[:1], noise[:1])


def test_smooth_grad_is_the_mean_over_its_noisy_images():
    model, encoded, pairs = setting()
    method = SmoothGrad(samples=3, noise=0.5, times_input=True)
    mean = 0
    for sample in range(3):
        rows = torch.arange(2)
        noisy = method.noisy_images(pairs.query, pairs, rows, torch.full((2,), sample))
        mean = mean + image_gradient(model, encoded, noisy, rows) / 3
    expected = (mean * pairs.query).abs().sum(dim=1)
    torch.testing.assert_close(method(model, encoded, pairs), expected, **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_chunks_stay_small_and_do_not_matter(method, monkeypatch):
    model, encoded, pairs = setting(target="margin")
    expected = method(model, encoded, pairs)
    seen = []
    model.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(pixels, "PIXELS", 3 * 7 * 5 + 1)
    torch.testing.assert_close(method(model, encoded, pairs), expected, **CLOSE)
    assert max(seen) <= 3
    count = getattr(method, "samples", getattr(method, "steps", 1))
    assert sum(seen) == 2 * count
    monkeypatch.setattr(pixels, "PIXELS", 1)
    torch.testing.assert_close(method(model, encoded, pairs), expected, **CLOSE)


@pytest.mark.parametrize("method", SIGNED, ids=lambda m: type(m).__name__)
def test_the_margin_map_is_the_difference_of_its_comparisons(method):
    model, encoded, pairs = setting(target="margin")
    parts = [method(model, replace(encoded, terms=(term,)), pairs) for term in encoded.terms]
    torch.testing.assert_close(method(model, encoded, pairs), sum(parts), **CLOSE)
    assert parts[1].abs().max() > 0


def test_the_other_side_is_the_turned_pair():
    model, encoded, pairs = setting(similarity=Cosine())
    turned = encode_pairs(model, Similarity(), pairs.reference, pairs.query)
    found = IntegratedGradients(3)(model, swap_sides(encoded), pairs)
    torch.testing.assert_close(found, IntegratedGradients(3)(model, turned, pairs), **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_map_has_the_size_of_the_image_and_its_card_is_whole(method):
    case = setting(size=(9, 6))
    assert method(*case).shape == (2, 9, 6)
    assert all(formula_and_source(type(method)))
    assert set(field_notes(type(method))) == set(vars(method))


def test_bad_fields_are_refused():
    for make in (
        lambda: SmoothGrad(samples=0),
        lambda: SmoothGrad(noise=-0.1),
        lambda: IntegratedGradients(steps=0),
    ):
        with pytest.raises(UserError):
            make()
