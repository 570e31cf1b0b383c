"""RISE, CorrRISE, Distance Explainer, RELAX, SBSM, KernelSHAP: identities in float64, budgets, and by hand."""

from dataclasses import fields, replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.engine.passes import Passes
from sfam_bench.errors import UserError
from sfam_bench.explainers.card import field_notes, formula_and_source
from sfam_bench.explainers.corr_rise import CorrRISE, Patches, ranks
from sfam_bench.explainers.distance_explainer import DistanceExplainer, highest
from sfam_bench.explainers.forms import Sampling
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.masking import Grids, masked_scores
from sfam_bench.explainers.relax import RELAX
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.sbsm import SBSM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.models.poolings import GAP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch, Side
from sfam_bench.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.targets import Margin, Similarity, score, swapped

CLOSE = {"rtol": 1e-8, "atol": 1e-12}
SIMILARITIES = [Cosine(), Dot(), NegativeEuclidean()]
LINEAR = [RISE(masks=40, grid=3), SBSM(relu=False), KernelSHAP(grid=3, samples=60)]
METHODS = [*LINEAR, CorrRISE(masks=40), DistanceExplainer(masks=40), RELAX(masks=40, grid=3)]


def named(method):
    return type(method).__name__


def setting(similarity=SIMILARITIES[0], target=None, rows=11, cols=8, additive=False, seed=0):
    """Two pairs before a small net; `additive`: linear, so that dot products add up over pixels."""
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 5, 1 if additive else 3, bias=not additive)
    parts = (GAP(), None, None, False) if additive else (GeM(), nn.Linear(5, 4), None, True)
    model = SimilarityModel(
        nn.Sequential(first, nn.Identity() if additive else nn.ReLU()), Embedder(*parts), similarity
    )
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64) - (0.5 if additive else 0)  # pixels of both signs
    model = model.double().eval()
    pairs = PairBatch(("a", "b"), ("x", "y"), images[0], images[1])
    return model, encode_pairs(model, target or Similarity(), *images), pairs


def added(model, encoded):
    """What each pixel adds to an additive score."""
    activations = encoded.query.activations
    return torch.einsum("bkij,bk->bij", activations, encoded.terms[0].side.embeddings) / activations[0, 0].numel()


def summed(values, grid):
    """Sums over the patches of a grid, pixel by pixel."""
    rows, cols = values.shape[-2:]
    total = values.new_zeros(len(values), grid, grid)
    for i in range(rows):
        for j in range(cols):
            total[:, i * grid // rows, j * grid // cols] += values[:, i, j]
    return total


# All


@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_both_sides_and_every_similarity_have_finite_maps_that_follow_the_reference(method, similarity):
    model, encoded, pairs = setting(similarity)
    maps = method(model, encoded, pairs)
    assert maps.isfinite().all()
    assert maps.dtype == torch.float64
    assert maps.shape == ((2, 3, 3) if isinstance(method, KernelSHAP) else (2, 11, 8))
    turned = replace(pairs, query_ids=pairs.reference_ids, reference_ids=pairs.query_ids)
    theirs = method(model, swapped(encoded), turned)
    assert theirs.isfinite().all()
    assert not torch.allclose(theirs, maps)
    (term,) = encoded.terms
    images = pairs.reference.flip(0)
    other = replace(encoded, terms=(replace(term, side=model.encode(images)),))
    assert torch.equal(method(model, other, pairs), maps) == (not method.card.reads_reference)


@pytest.mark.parametrize("method", [*METHODS, ScoreCAM(space="image"), ScoreCAM(space="cut")], ids=named)
@pytest.mark.parametrize("batch", [1, 7])
def test_forward_passes_are_no_more_than_stated(method, batch):
    model, encoded, pairs = setting()
    inputs = []

    def count(images):
        inputs.extend(images)
        with torch.no_grad():
            return model(images)

    assert isinstance(method, Sampling)
    method(model, replace(encoded, passes=Passes(count, batch)), pairs)
    stated = 2 * method.forwards(encoded.query)
    assert len(inputs) == -(-stated // batch) * batch  # the last batch is filled up


@pytest.mark.parametrize("method", LINEAR, ids=named)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_margin_map_is_the_map_of_the_positive_minus_that_of_the_negative(method, similarity):
    model, encoded, pairs = setting(similarity, Margin())
    positive, negative = (method(model, replace(encoded, terms=(term,)), pairs) for term in encoded.terms)
    torch.testing.assert_close(method(model, encoded, pairs), positive + negative, **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_query_has_the_same_masks_wherever_it_stands(method):
    model, encoded, pairs = setting()
    maps = method(model, encoded, pairs)
    turned = PairBatch(("b", "a"), ("y", "x"), pairs.query.flip(0), pairs.reference.flip(0))
    found = method(model, encode_pairs(model, Similarity(), turned.query, turned.reference), turned)
    torch.testing.assert_close(found.flip(0), maps, **CLOSE)
    if hasattr(method, "seed"):
        assert not torch.allclose(replace(method, seed=1)(model, encoded, pairs), maps)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_an_image_of_one_pixel(method):
    torch.manual_seed(0)
    model = SimilarityModel(nn.Conv2d(3, 4, 1), Embedder(GAP()), Cosine())
    images = torch.rand(2, 1, 3, 1, 1)
    pairs = PairBatch(("a",), ("b",), *images)
    maps = method(model, encode_pairs(model, Similarity(), *images), pairs)
    assert maps.shape == (1, 1, 1)
    assert maps.isfinite().all()


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_the_docstring_says_where_it_comes_from_and_what_each_field_is(method):
    formula, source = formula_and_source(type(method))
    assert formula
    assert source
    assert set(field_notes(type(method))) == {field.name for field in fields(method)}


# RISE and RELAX


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_rise_is_the_covariance_of_score_and_mask(keep):
    model, encoded, pairs = setting()
    found = RISE(masks=30, grid=3, keep=keep)(model, encoded, pairs)[1]
    masking = Grids(30, 3, keep, 0)
    scores = masked_scores(model, encoded, pairs, masking, "mean").target[1]
    masks = masking.draw("b", (11, 8)).made(0, 30)
    expected = torch.cov(torch.cat([scores[None], masks.flatten(1).T]), correction=0)[0, 1:].view(11, 8) / keep
    torch.testing.assert_close(found, expected, **CLOSE)


def test_plain_rise_is_the_papers_sum():
    model, encoded, pairs = setting()
    plain, less = (RISE(masks=30, subtract_mean=subtract)(model, encoded, pairs)[0] for subtract in (False, True))
    masking = Grids(30, 8, 0.5, 0)
    scores = masked_scores(model, encoded, pairs, masking, "mean").target[0]
    masks = masking.draw("a", (11, 8)).made(0, 30)
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
    cosines = masked_scores(model, encoded, pairs, masking, "mean").itself
    for row, query_id in enumerate("ab"):
        (mask,) = masking.draw(query_id, (11, 8)).made(0, 1)
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
    often = Patches(3, 1, 0.4, 0).draw("a", (11, 8)).made(0, 3).mean(dim=0)
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


# SBSM


@pytest.mark.parametrize("relu", [True, False])
def test_on_an_additive_score_a_windows_fall_is_the_sum_of_what_it_covers(relu):
    model, encoded, pairs = setting(Dot(), additive=True)
    maps = SBSM(window=0.4, stride=0.2, relu=relu)(model, encoded, pairs)
    pixels = added(model, encoded)
    assert pixels.min() < 0 < pixels.max()
    total, often = torch.zeros_like(pixels), torch.zeros(11, 8)
    for top in range(-1, 10, 2):  # windows of 4 x 3 every 2 x 2: an overhang of 3 rows and 1 column
        for left in range(0, 8, 2):
            window = (..., slice(max(0, top), top + 4), slice(left, left + 3))
            fall = pixels[window].sum(dim=(1, 2), keepdim=True)
            total[window] += fall.relu() if relu else fall
            often[window] += 1
    torch.testing.assert_close(maps, total / often, **CLOSE)


def test_windows_are_counted_for_each_size():
    assert SBSM().forwards(side(224, 224)) == 1 + 12 * 12
    assert SBSM().forwards(side(37, 51)) == 1 + 13 * 11
    assert SBSM(window=1.0, stride=1.0).forwards(side(37, 51)) == 2


def side(rows, cols):
    images = torch.zeros(1, 3, rows, cols)
    return Side(images, images, torch.zeros(1, 2))


# KernelSHAP


@settings(max_examples=20, deadline=None)
@given(
    grid=st.integers(1, 5),
    rows=st.integers(5, 12),
    cols=st.integers(5, 12),
    weighting=st.sampled_from(["shapley", "banzhaf"]),
    seed=st.integers(0, 100),
)
def test_on_an_additive_score_each_patch_has_what_it_adds(grid, rows, cols, weighting, seed):
    model, encoded, pairs = setting(Dot(), rows=rows, cols=cols, additive=True)
    found = KernelSHAP(grid=grid, samples=160, weighting=weighting, seed=seed, baseline="zeros")(model, encoded, pairs)
    torch.testing.assert_close(found, summed(added(model, encoded), grid), rtol=1e-6, atol=1e-9)


def game(model, encoded, pairs, pair, kept):
    """The score of one query with some patches of a 2 x 2 grid kept and the others black."""
    image = torch.zeros_like(pairs.query[pair])
    for row, col in kept:
        rows, cols = (slice(-(-k * n // 2), -(-(k + 1) * n // 2)) for k, n in zip((row, col), (11, 8), strict=True))
        image[:, rows, cols] = pairs.query[pair][:, rows, cols]
    with torch.no_grad():
        return float(score(model.similarity, model(image[None]), encoded.terms, torch.tensor([pair])))


PATCHES = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_with_all_coalitions_it_is_the_shapley_value(similarity):
    of = setting(similarity, Margin())
    found = KernelSHAP(grid=2, samples=16, baseline="zeros")(*of)
    for pair in range(2):
        expected = torch.zeros(2, 2, dtype=torch.float64)
        for order in permutations(PATCHES):
            values = [game(*of, pair, order[:size]) for size in range(5)]
            for patch, before, after in zip(order, values, values[1:], strict=False):
                expected[patch] += (after - before) / 24
        torch.testing.assert_close(found[pair], expected, **CLOSE)


def test_with_all_coalitions_it_is_the_banzhaf_value():
    of = setting()
    found = KernelSHAP(grid=2, samples=16, weighting="banzhaf", baseline="zeros")(*of)
    for patch in PATCHES:
        others = [other for other in PATCHES if other != patch]
        drops = []
        for bits in range(8):
            kept = [other for place, other in enumerate(others) if bits >> place & 1]
            drops.append(game(*of, 1, [*kept, patch]) - game(*of, 1, kept))
        assert float(found[1][patch]) == pytest.approx(sum(drops) / 8, rel=1e-8)


@pytest.mark.parametrize("samples", [34, 35, 100])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_shapley_values_sum_to_the_change_of_the_score_however_few_the_samples(similarity, samples):
    model, encoded, pairs = setting(similarity)
    maps = KernelSHAP(grid=4, samples=samples)(model, encoded, pairs)
    mean = pairs.query.mean(dim=(2, 3), keepdim=True).expand_as(pairs.query)
    full, empty = (score(similarity, model(images).detach(), encoded.terms) for images in (pairs.query, mean))
    torch.testing.assert_close(maps.sum(dim=(1, 2)), full - empty, **CLOSE)


def test_more_samples_come_nearer_to_the_shapley_value():
    of = setting(NegativeEuclidean())
    exact, few, many = (KernelSHAP(grid=3, samples=samples)(*of) for samples in (512, 20, 300))
    assert (many - exact).abs().max() < 0.5 * (few - exact).abs().max()


def test_an_image_smaller_than_the_grid_has_a_patch_for_each_pixel():
    model, encoded, pairs = setting(Dot(), rows=3, cols=9, additive=True)
    method = KernelSHAP(grid=4, samples=64, baseline="zeros")
    assert method(model, encoded, pairs).shape == (2, 3, 4)


# Bad settings


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        (CorrRISE, {"masks": 1}),
        (CorrRISE, {"patches": 0}),
        (CorrRISE, {"patch": 1.0}),
        (CorrRISE, {"correlation": "kendall"}),
        (DistanceExplainer, {"nearest": 1.5}),
        (DistanceExplainer, {"farthest": -0.1}),
        (DistanceExplainer, {"nearest": 0.0001}),
        (DistanceExplainer, {"softness": -1.0}),
        (SBSM, {"window": 0.0}),
        (SBSM, {"stride": 1.5}),
        (SBSM, {"baseline": "grey"}),
        (KernelSHAP, {"grid": 0}),
        (KernelSHAP, {"samples": 99}),
        (KernelSHAP, {"weighting": "owen"}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(method, chosen):
    (name,) = chosen
    with pytest.raises((UserError, TypeError), match=rf"{method.__name__}\.{name} is|Type-check"):
        method(**chosen)


def test_distance_explainer_needs_a_side():
    with pytest.raises(UserError, match="both 0"):
        DistanceExplainer(nearest=0.0, farthest=0.0)
