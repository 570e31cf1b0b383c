"""RISE, RELAX, CorrRISE, Distance Explainer: identities in float64, rounding, and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.similarity import Cosine, Dot
from sfam_bench.core.targets import Similarity, score
from sfam_bench.explainers.corr_rise import CorrRISE, Patches, ranks
from sfam_bench.explainers.distance_explainer import DistanceExplainer, highest
from sfam_bench.explainers.relax import RELAX
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.shared.masking import Grids, masked_scores
from sfam_bench.models.similarity_model import encode_pairs
from tests.explainers.masked import CLOSE, setting

# RISE and RELAX


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_rise_is_the_covariance_of_score_and_mask(keep):
    model, encoded, pairs = setting()
    found = RISE(masks=30, grid=3, keep=keep)(model, encoded, pairs)[1]
    masking = Grids(30, 3, keep, 0)
    scores = masked_scores(model, encoded, pairs, masking, "mean_colour").target[1]
    masks = masking.draw("b", (11, 8)).make(0, 30)
    expected = torch.cov(torch.cat([scores[None], masks.flatten(1).T]), correction=0)[0, 1:].view(11, 8) / keep
    torch.testing.assert_close(found, expected, **CLOSE)


def test_plain_rise_is_the_papers_sum():
    model, encoded, pairs = setting()
    plain, less = (RISE(masks=30, subtract_mean=subtract)(model, encoded, pairs)[0] for subtract in (False, True))
    masking = Grids(30, 8, 0.5, 0)
    scores = masked_scores(model, encoded, pairs, masking, "mean_colour").target[0]
    masks = masking.draw("a", (11, 8)).make(0, 30)
    torch.testing.assert_close(plain, (scores[:, None, None] * masks).sum(dim=0) / 15, **CLOSE)
    torch.testing.assert_close(plain - less, scores.mean() * masks.mean(dim=0) / 0.5, **CLOSE)


def test_rise_finds_the_only_pixels_that_count():
    model, encoded, pairs = setting(Dot(), additive=True)
    images = torch.zeros(2, 3, 12, 12, dtype=torch.float64)
    images[:, :, 8:10, 1:3] = 1
    encoded = encode_pairs(model, Similarity(), images, torch.rand_like(images))
    sign = score(model.similarity, encoded.query.embeddings, encoded.terms).sign()
    maps = RISE(masks=2000, grid=6, baseline="zeros")(model, encoded, pairs) * sign[:, None, None]
    assert maps[:, 8:10, 1:3].amin() > 2 * maps[:, :5, 5:].abs().amax()


def test_relax_of_one_mask_is_its_cosine_where_the_mask_keeps_anything():
    model, encoded, pairs = setting()
    relax = RELAX(masks=1, grid=4)
    maps = relax(model, encoded, pairs)
    masking = Grids(1, 4, 0.5, 0)
    cosines = masked_scores(model, encoded, pairs, masking, "mean_colour").itself
    for row, query_id in enumerate("ab"):
        (mask,) = masking.draw(query_id, (11, 8)).make(0, 1)
        assert (mask == 0).any()
        torch.testing.assert_close(maps[row], torch.where(mask > 0, cosines[row], 0), **CLOSE)


# CorrRISE


def rising(values):
    return values**3


@pytest.mark.parametrize(
    ("correlation", "change"),
    [("pearson", lambda s: 3 * s - 2), ("spearman", lambda s: s.exp()), ("pearson", rising)],
    ids=["pearson-linear", "spearman-rising", "pearson-rising"],
)
def test_corr_rise_under_a_transformed_score(correlation, change):
    class Changed(Cosine):
        def __call__(self, query, reference):
            return change(super().__call__(query, reference))

    method = CorrRISE(masks=30, patches=2, correlation=correlation)
    plain, changed = (method(*setting(similarity, seed=1)) for similarity in (Cosine(), Changed()))
    assert torch.allclose(plain, changed, **CLOSE) == (change is not rising)
    assert plain.abs().max() <= 1
    assert plain.abs().max() > 0.2


def test_the_dissimilar_map_is_the_negative():
    of = setting()
    assert torch.equal(CorrRISE(masks=30, dissimilar=True)(*of), -CorrRISE(masks=30)(*of))


def test_pixels_that_are_never_or_always_covered_are_zero():
    model, encoded, pairs = setting()
    method = CorrRISE(masks=3, patches=1, patch=0.4, correlation="pearson")
    often = Patches(3, 1, 0.4, 0).draw("a", (11, 8)).make(0, 3).mean(dim=0)
    assert (often == 1).any()
    maps = method(model, encoded, pairs)[0]
    assert torch.equal(maps != 0, (often > 0) & (often < 1))


def test_ranks_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert (ranks(scores, 1e-6) - 0.5).tolist() == [[3, 0, 1.5, 1.5], [1.5, 1.5, 1.5, 1.5]]


def test_rounding_moves_ranks_by_little():
    draw = torch.Generator().manual_seed(0)
    scores = 0.9 + 1e-4 * torch.rand(1, 300, generator=draw, dtype=torch.float64)
    moved = scores + 1e-8 * (torch.rand(1, 300, generator=draw, dtype=torch.float64) - 0.5)
    assert (ranks(scores, 0.0).argsort() != ranks(moved, 0.0).argsort()).any()
    assert (ranks(scores, 1e-5) - ranks(moved, 1e-5)).abs().max() < 0.05


# Distance Explainer


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(-5, 5), min_size=2, max_size=20),
    share=st.floats(0.05, 1),
    softness=st.sampled_from([0.0, 0.01, 0.3]),
)
def test_the_highest_weigh_as_many_as_asked_and_ties_share_alike(values, share, softness):
    scores = torch.tensor([values], dtype=torch.float64)
    count = max(1, int(share * len(values)))
    (weights,) = highest(scores, count, softness)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert float(weights.sum()) == pytest.approx(count, abs=1e-2)
    order = scores[0].argsort()
    assert (weights[order].diff() >= -1e-9).all()
    for value in set(values):
        assert weights[scores[0] == value].unique().numel() == 1


def test_without_softness_the_highest_are_chosen_whole():
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros_like(scores).scatter(1, scores.topk(7, dim=1).indices, 1.0)
    torch.testing.assert_close(highest(scores, 7, 0.0), expected, rtol=0, atol=1e-9)


def test_with_softness_rounding_moves_no_whole_mask():
    scores = torch.tensor([[1.0, 0.5 + 1e-9, 0.5, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[1.0, 0.5, 0.5 + 1e-9, 0.0]], dtype=torch.float64)
    hard, soft = ((highest(scores, 2, s) - highest(moved, 2, s)).abs().max() for s in (0.0, 0.01))
    assert hard > 0.99
    assert soft < 1e-6


def test_the_one_sided_maps_add_up_to_the_map():
    of = setting()
    both, near, far = (
        DistanceExplainer(masks=40, nearest=nearest, farthest=farthest)(*of)
        for nearest, farthest in ((0.1, 0.2), (0.1, 0.0), (0.0, 0.2))
    )
    torch.testing.assert_close(both, near + far, **CLOSE)
    assert near.min() >= 0
    assert far.max() <= 0


def test_distance_explainer_hangs_on_the_order_of_scores_alone():
    class Changed(Cosine):
        def __call__(self, query, reference):
            return super().__call__(query, reference).exp()

    method = DistanceExplainer(masks=40, softness=0.0)
    plain, changed = (method(*setting(similarity)) for similarity in (Cosine(), Changed()))
    torch.testing.assert_close(plain, changed, **CLOSE)
