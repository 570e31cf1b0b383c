"""Imputation by hand, against a direct solve and grad-cam's own imputer; ROAD against its ROADCombined."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.peers import impute_directly
from sfam_bench.core.baselines import Zeros
from sfam_bench.metrics.road import Imputed, Imputing, Road
from sfam_bench.metrics.shared.imputation import impute

PLAIN = Road(noise=0, baseline=Zeros(), min_range=0.0)
RAW = Road(noise=0, baseline=Zeros(), scale="raw")


def smooth(seed, *size):
    """Maps without ties."""
    coarse = torch.rand(1, size[0], 4, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size[1:], mode="bicubic")[0]


def test_one_pixel_is_the_weighted_mean_of_its_neighbours():
    image = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0))
    removed = torch.zeros(2, 3, 3, dtype=torch.bool)
    removed[0, 1, 1] = removed[1, 0, 0] = True
    found = impute(image, removed)
    weights = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    torch.testing.assert_close(found[0, :, 1, 1], (image * weights).sum(dim=(1, 2)))
    corner = (2 * image[:, 0, 1] + 2 * image[:, 1, 0] + image[:, 1, 1]) / 5  # three neighbours
    torch.testing.assert_close(found[1, :, 0, 0], corner)
    kept = ~removed[:, None].expand_as(found)
    assert torch.equal(found[kept], image.expand_as(found)[kept])


def test_what_is_linear_comes_back_inside():
    ramp = (torch.arange(8.0) + 3 * torch.arange(6.0)[:, None]).expand(3, 6, 8) / 23
    removed = torch.zeros(1, 6, 8, dtype=torch.bool)
    removed[0, 2:5, 1:6] = True
    torch.testing.assert_close(impute(ramp, removed)[0], ramp, rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(bits=st.lists(st.booleans(), min_size=35, max_size=35).filter(lambda bits: not all(bits)))
def test_imputed_pixels_lie_between_those_that_are_left(bits):
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
    removed = torch.tensor(bits).view(1, 5, 7)
    (found,), left = impute(image, removed), image[:, ~removed[0]]
    assert (found.amin(dim=(1, 2)) >= left.amin(dim=1) - 1e-4).all()
    assert (found.amax(dim=(1, 2)) <= left.amax(dim=1) + 1e-4).all()


def structured(kind, rows, cols):
    """Maps whose most relevant pixels form regions, lines or isolated pixels."""
    down, across = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
    noise = torch.rand(rows, cols, generator=torch.Generator().manual_seed(2))
    return {
        **{"half": down + 1e-3 * across, "disc": -(down**2) - across**2, "pixels": noise},
        **{"rare": noise * (-3 * (down**2 + across**2)).exp(), "lines": (across * cols).sin() + 0.01 * noise},
        "regions": smooth(1, 1, rows, cols)[0],
    }[kind]


@pytest.mark.parametrize("kind", ["half", "disc", "pixels", "rare", "lines", "regions"])
@pytest.mark.parametrize("size", [(96, 96), (61, 130)])
def test_it_equals_a_direct_solve_for_every_shape_of_region(kind, size):
    image = smooth(5, 3, *size)
    ranks = structured(kind, *size).flatten().argsort().argsort().view(size)
    counts = [1, *(round(share * ranks.numel()) for share in (0.1, 0.5, 0.9)), ranks.numel() - 1]
    removed = torch.stack([ranks < count for count in counts])
    for found, where in zip(impute(image, removed), removed, strict=True):
        expected = torch.from_numpy(impute_directly(image.numpy(), where.numpy())).float()
        torch.testing.assert_close(found[:, where], expected, rtol=0, atol=1e-4)
        assert torch.equal(found[:, ~where], image[:, ~where])


@pytest.mark.parametrize("size", [(24, 24), (17, 30)])
@pytest.mark.parametrize("count", [1, 60, 240, 480])
def test_the_imputer_of_grad_cam_fills_in_the_same(size, count):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    image, ranks = torch.rand(3, *size), smooth(count, 1, *size).flatten(1).argsort().argsort().view(size).int()
    series, out = Imputed(image, ranks, (count,), 0, 0), torch.empty(1, 3, *size)
    series.write(0, out)
    theirs = road.NoisyLinearImputer(noise=0)(image, (ranks >= count).float())
    torch.testing.assert_close(out[0], theirs, rtol=0, atol=1e-4)
    assert torch.equal(out[0][:, ranks >= count], image[:, ranks >= count])


def test_in_full_it_is_grad_cams_combined(explained, monkeypatch):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # its noise cannot be turned off
    weights, maps = (1.0, -0.2, 0.5), smooth(3, 2, 24, 24)
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    seen = explained(images, maps, weights)

    def net(images):
        return (images.mean(dim=(2, 3)) @ torch.tensor(weights))[:, None]

    theirs = road.ROADCombined()(images, maps.numpy(), [ClassifierOutputTarget(0)] * 2, net)
    np.testing.assert_allclose(RAW(seen).values.numpy(), theirs, atol=1e-4)
    torch.testing.assert_close(PLAIN(seen).values * seen.scene.full(), RAW(seen).values)


@pytest.mark.parametrize("pixels", [11, 24, 1000, 1024])
def test_as_many_go_as_lie_above_the_percentile(pixels):
    values = np.arange(pixels)
    expected = [int((values >= np.percentile(values, 100 - 10 * k)).sum()) for k in range(1, 10)]
    assert Imputing("most", 9, 0, 0).removed_counts(pixels) == expected
    assert Imputing("most", 9, 0, 0).removed_counts(50_176)[4] == 25_088


def test_the_truth_is_best_its_inverse_worst_and_chance_between(explained):
    red = smooth(0, 1, 16, 16)
    image = torch.zeros(1, 3, 16, 16)
    image[:, 0] = red - red.min()
    best, worst = (PLAIN(explained(image, sign * red)).values.item() for sign in (1, -1))
    assert worst < 0 < best
    assert best == pytest.approx(-worst, abs=1e-5)
    for seed in range(5):
        maps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(seed))
        assert worst < PLAIN(explained(image, maps)).values.item() < best


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.sampled_from([0.25, 4.0, 1024.0]), seed=st.integers(0, 9))
def test_scaling_a_map_changes_nothing(explained, factor, seed):
    image, maps = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(seed)), smooth(seed, 1, 9, 7)
    assert torch.equal(
        Road(baseline=Zeros())(explained(image, maps)).values,
        Road(baseline=Zeros())(explained(image, maps * factor)).values,
    )


def test_noise_hangs_on_the_pair_and_the_seed(explained):
    image = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1).contiguous()
    seen = explained(image, smooth(0, 1, 9, 7).expand(2, -1, -1).contiguous())
    out = {}
    for pair, seed in ((0, 0), (1, 0), (0, 1)):
        series = Imputing("most", 2, 0.01, seed).series(seen, pair)
        out[pair, seed] = torch.empty(2, 3, 9, 7)
        series.write(0, out[pair, seed])
        second = torch.empty(1, 3, 9, 7)
        series.write(1, second)
        assert torch.equal(second[0], out[pair, seed][1])
    difference = out[0, 0] - out[1, 0]
    assert 0.005 < difference[1][difference[1] != 0].std() < 0.03
    assert not torch.equal(out[0, 0], out[0, 1])
    assert Road(noise=0.01, baseline=Zeros())(seen).values[0] != Road(noise=0.01, baseline=Zeros())(seen).values[1]


def test_without_range_it_is_undefined_and_asks_nothing(explained):
    image = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    image[1] = 0
    seen = explained(image, image[:, 0])
    metric = Road(baseline=Zeros())
    assert metric(seen).values.isnan().tolist() == [False, True]
    assert {pair for _, pair in seen.answers} == {0}
