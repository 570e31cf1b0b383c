"""Eigen-CAM and Eigen-Grad-CAM: beside the singular value decomposition, signs, degenerate cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.eigen_cam import EigenCAM, first_component
from sfam_bench.explainers.eigen_grad_cam import EigenGradCAM
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.models.poolings import GAP, GMP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import explain

SIGNS = ["channel_sum", "largest"]
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def setting(target=None, similarity=None, pooling=GeM):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus())
    model = SimilarityModel(trunk, Embedder(pooling(), nn.Linear(6, 4)), similarity or Cosine()).double().eval()
    images = torch.rand(3, 2, 3, 7, 8, dtype=torch.float64)
    return model, encode_pairs(model, target or Similarity(), *images)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 9),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    centre=st.booleans(),
    sign=st.sampled_from(SIGNS),
)
def test_it_is_the_first_component_of_a_singular_value_decomposition(channels, rows, cols, seed, centre, sign):
    draw = torch.Generator().manual_seed(seed)
    features = torch.rand(3, channels, rows, cols, generator=draw, dtype=torch.float64) - 0.4
    found = first_component(features, centre, sign)
    for one, ours in zip(features.numpy(), found.numpy(), strict=True):
        matrix = one.reshape(channels, -1).T
        matrix = matrix - matrix.mean(axis=0) if centre else matrix
        u, s, _ = np.linalg.svd(matrix, full_matrices=False)
        if len(s) > 1 and s[0] < 1.01 * s[1]:
            continue  # which component is the first is chance
        expected = u[:, 0] * s[0]
        assert np.abs(np.abs(ours.ravel()) - np.abs(expected)).max() < 1e-6 * max(s[0], 1e-3)
        if sign == "largest":
            assert ours.max() >= np.abs(ours).max() * (1 - 1e-9)
        else:
            assert (ours.ravel() * matrix.sum(axis=1)).sum() >= -1e-12


def test_by_hand():
    # rows of positions (3, 4), (0, 0), (-6, -8): rank one, axis (0.6, 0.8)
    features = torch.tensor([[[[3.0, 0.0, -6.0]], [[4.0, 0.0, -8.0]]]])
    for sign in SIGNS:
        turned = 1 if sign == "channel_sum" else -1
        found = first_component(features, False, sign)[0, 0].tolist()
        assert found == pytest.approx([5.0 * turned, 0.0, -10.0 * turned], abs=1e-5)
    # each channel's mean is -1 and -4/3
    centred = first_component(features, True, "channel_sum")[0, 0].tolist()
    assert centred == pytest.approx([5 + 5 / 3, 5 / 3, -10 + 5 / 3], abs=1e-5)


def test_rectified_activations_give_a_map_without_negative_values():
    features = torch.rand(4, 7, 3, 5, generator=torch.Generator().manual_seed(0))
    for sign in SIGNS:
        assert first_component(features, False, sign).min() >= 0
    assert first_component(features, True, "channel_sum").min() < 0


def test_on_rank_one_it_is_every_channel_and_lafam():
    pattern = torch.tensor([[0.5, 1.0], [2.0, 0.0]], dtype=torch.float64)
    model, encoded = setting()
    gains = torch.tensor([1.0, 3.0, 0.0, 2.0, 0.1, 4.0], dtype=torch.float64)
    activations = (gains[:, None, None] * pattern).expand(2, -1, -1, -1)
    seen = replace(encoded, query=replace(encoded.query, activations=activations))
    found = explain(EigenCAM(), model, seen)
    torch.testing.assert_close(found, (pattern * gains.norm()).expand(2, -1, -1), **CLOSE)
    torch.testing.assert_close(found / gains.norm(), explain(LaFAM(), model, seen) / gains.mean(), **CLOSE)


def test_where_its_matrix_has_rank_one_eigen_grad_cam_is_proportional_to_hirescam():
    model, encoded = setting(similarity=Dot(), pooling=GAP)
    pattern = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    activations = (torch.arange(1.0, 7.0, dtype=torch.float64)[:, None, None] * pattern).expand(2, -1, -1, -1)
    seen = replace(encoded, query=replace(encoded.query, activations=activations))
    found, expected = explain(EigenGradCAM(centre=False), model, seen), explain(HiResCAM(), model, seen)
    peaks = (maps.abs().amax(dim=(1, 2), keepdim=True) for maps in (found, expected))
    torch.testing.assert_close(found / next(peaks), expected / next(peaks), **CLOSE)


@pytest.mark.parametrize("similarity", [Cosine(), Dot(), NegativeEuclidean()], ids=lambda s: s.name)
def test_the_sign_of_eigen_grad_cam_is_that_of_the_target(similarity):
    model, encoded = setting(Margin(), similarity, GMP)
    turned = replace(encoded, terms=tuple(replace(term, sign=-term.sign) for term in encoded.terms))
    for centre in (True, False):
        found = explain(EigenGradCAM(centre), model, encoded)
        torch.testing.assert_close(explain(EigenGradCAM(centre), model, turned), -found, **CLOSE)
        assert ((found * explain(HiResCAM(), model, encoded)).sum(dim=(1, 2)) > 0).all() or centre
    kept = explain(EigenGradCAM(sign="largest"), model, turned)
    torch.testing.assert_close(kept, explain(EigenGradCAM(sign="largest"), model, encoded), **CLOSE)


def test_eigen_cam_ignores_the_reference_and_eigen_grad_cam_does_not():
    model, encoded = setting(Margin())
    first, other = (replace(encoded, terms=(replace(term, sign=1.0),)) for term in encoded.terms)
    assert torch.equal(explain(EigenCAM(), model, first), explain(EigenCAM(), model, other))
    assert not torch.allclose(explain(EigenGradCAM(), model, first), explain(EigenGradCAM(), model, other))


@pytest.mark.parametrize("sign", SIGNS)
def test_degenerate_activations_give_finite_maps(sign):
    single = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1)
    assert first_component(single, True, sign).tolist() == [[[0.0]]]
    assert first_component(single, False, sign).abs().tolist() == [[[5.0]]]
    constant = torch.full((1, 3, 2, 2), 2.0)
    assert first_component(constant, True, sign).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    torch.testing.assert_close(first_component(constant, False, sign), torch.full((1, 2, 2), 12**0.5))
    assert first_component(torch.zeros(1, 3, 2, 2), False, sign).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    tiny = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 1e-30
    assert first_component(tiny, True, sign).abs().max() > 1e-32


def test_what_is_not_finite_stays_so_and_spoils_no_other_pair():
    features = torch.rand(3, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = first_component(features, False, "channel_sum")
    features[1, 2, 0, 1] = torch.nan
    found = first_component(features, False, "channel_sum")
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
