"""Random masks: RISE's by its definition, their sums, and passes that methods share."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Margin, Similarity, swap_sides
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.corr_rise import Patches
from sfam_bench.explainers.distance_explainer import DistanceExplainer
from sfam_bench.explainers.relax import RELAX
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.shared.masking import Grids, masked_scores
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

GRIDS = Grids(masks=20, grid=3, keep=0.5, seed=0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimilarityModel(nn.Conv2d(3, 4, 3), Embedder(GAP()), Cosine()).double().eval()


def setting(model, count=2, target=None):
    """Pairs, encoded, and a list to which each forward pass through `encoded.passes` adds its images."""
    images = torch.rand(3, count, 3, 9, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = PairBatch(tuple("abc"[:count]), tuple("xyz"[:count]), images[0], images[1])
    taken = []

    def run(batch):
        taken.append(batch.clone())
        with torch.no_grad():
            return model(batch)

    encoded = encode_pairs(model, target or Similarity(), *images, passes=Passes(run, batch=1))
    return encoded, pairs, taken


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 30),
    cols=st.integers(1, 30),
    grid=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_grids_are_enlarged_and_cropped_as_in_rise(rows, cols, grid, seed):
    drawn = Grids(masks=5, grid=grid, keep=0.5, seed=seed).draw("a", (rows, cols))
    heights, widths = -(-rows // grid), -(-cols // grid)
    for mask, cells, down, right in zip(drawn.make(0, 5), drawn.cells, drawn.row_shifts, drawn.col_shifts, strict=True):
        assert 0 <= down < heights
        assert 0 <= right < widths
        zoom = [(grid + 1) * width / grid for width in (heights, widths)]
        large = torch.from_numpy(ndimage.zoom(cells.numpy(), zoom, order=1, mode="mirror", grid_mode=True))
        assert large.shape == ((grid + 1) * heights, (grid + 1) * widths)
        torch.testing.assert_close(mask, large[down : down + rows, right : right + cols], rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    masking=st.sampled_from(
        [Grids(90, 4, 0.3, 1), Grids(3, 8, 0.5, 0), Patches(90, 3, 0.3, 0), Patches(70, 1, 0.9, 2)]
    ),
    rows=st.integers(1, 20),
    cols=st.integers(1, 20),
    first=st.integers(0, 2),
)
def test_a_weighted_sum_is_that_of_the_masks_made_in_pieces(masking, rows, cols, first):
    drawn = masking.draw("a", (rows, cols))
    weights = torch.randn(2, len(drawn), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = torch.cat([drawn.make(0, first), drawn.make(first, len(drawn))]).double()
    assert made.min() >= 0
    assert made.max() <= 1 + 1e-12
    torch.testing.assert_close(drawn.sum_weighted(weights), (weights[:, :, None, None] * made).sum(dim=1))


@pytest.mark.parametrize("masking", [GRIDS, Patches(20, 2, 0.3, 0)], ids=["grids", "patches"])
def test_masks_hang_on_query_and_seed_and_nothing_else(masking):
    one = masking.draw("a", (9, 7)).make(0, 20)
    assert torch.equal(masking.draw("a", (9, 7)).make(0, 20), one)
    assert not torch.equal(masking.draw("b", (9, 7)).make(0, 20), one)
    assert not torch.equal(replace(masking, seed=1).draw("a", (9, 7)).make(0, 20), one)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_cells_are_kept_with_their_probability_everywhere(keep):
    mean = Grids(masks=4000, grid=4, keep=keep, seed=0).draw("a", (12, 8)).make(0, 4000).mean(dim=0)
    assert (mean - keep).abs().max() < 0.04


def test_patches_have_their_size_and_lie_inside():
    masks = 1 - Patches(masks=2000, patches=1, patch=0.25, seed=0).draw("a", (12, 20)).make(0, 2000)
    assert set(masks.sum(dim=1).flatten().tolist()) == {0, 3}
    assert set(masks.sum(dim=2).flatten().tolist()) == {0, 5}
    assert masks.any(dim=0).all()


def test_methods_with_the_same_masks_share_one_set_of_passes(model):
    encoded, pairs, taken = setting(model)
    for method in (RISE(masks=20), RELAX(masks=20), DistanceExplainer(masks=20), RISE(masks=20, subtract_mean=False)):
        method(model, encoded, pairs)
        assert len(taken) == 2 * 20 == 2 * method.forwards(encoded.query)


@pytest.mark.parametrize(
    "other",
    [{"masks": 19}, {"grid": 7}, {"keep": 0.6}, {"seed": 1}, {"baseline": "blur"}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_masks_take_their_own_passes(model, other):
    encoded, pairs, taken = setting(model)
    RISE(masks=20)(model, encoded, pairs)
    RELAX(**{"masks": 20, **other})(model, encoded, pairs)
    assert len(taken) == 2 * (20 + other.get("masks", 20))


def test_what_is_kept_is_of_the_same_pairs_and_target(model):
    encoded, pairs, taken = setting(model, target=Margin())
    first = masked_scores(model, encoded, pairs, GRIDS, "mean_colour").target
    renamed = masked_scores(model, encoded, replace(pairs, query_ids=("c", "b")), GRIDS, "mean_colour").target
    torch.testing.assert_close(renamed[1], first[1])
    assert not torch.allclose(renamed[0], first[0])
    one, two = (replace(encoded, terms=(term,)) for term in encoded.terms)
    parts = [masked_scores(model, part, pairs, GRIDS, "mean_colour").target for part in (one, two)]
    torch.testing.assert_close(parts[0] + parts[1], first)
    assert len(taken) == 4 * 2 * 20
    other = swap_sides(one)
    assert not torch.allclose(masked_scores(model, other, pairs, GRIDS, "mean_colour").target, parts[0])


def test_the_scores_are_those_of_the_masked_images(model):
    encoded, pairs, taken = setting(model)
    found = masked_scores(model, encoded, pairs, GRIDS, "zeros")
    masks = GRIDS.draw("b", (9, 7)).make(0, 20)
    images = pairs.query[1] * masks[:, None]
    torch.testing.assert_close(torch.cat(taken[20:]), images)
    embeddings = model(images).detach()
    query, reference = (model(side[1:2]).detach() for side in (pairs.query, pairs.reference))
    torch.testing.assert_close(found.target[1], F.cosine_similarity(embeddings, reference))
    torch.testing.assert_close(found.itself[1], F.cosine_similarity(embeddings, query))


@pytest.mark.parametrize("method", [RISE, RELAX, DistanceExplainer])
@pytest.mark.parametrize(
    "fields", [{"masks": 0}, {"grid": 0}, {"keep": 0.0}, {"keep": 1.0}, {"baseline": "white"}], ids=str
)
def test_masks_that_cannot_be_are_refused(method, fields):
    (name,) = fields
    with pytest.raises((UserError, TypeError), match=rf"{method.__name__}\.{name} is|Type-check"):
        method(**fields)


@pytest.mark.parametrize("method", [RISE, RELAX, DistanceExplainer])
def test_a_map_ends_with_as_many_masks_as_its_standard_error_takes(model, method):
    encoded, pairs, taken = setting(model)
    tight, whole = method(masks=256, grid=3, standard_error=1e-9), method(masks=256, grid=3)
    torch.testing.assert_close(tight(model, encoded, pairs), whole(model, encoded, pairs))
    taken.clear()
    loose = method(masks=256, grid=3, standard_error=100)
    maps = loose(model, encoded, pairs)
    assert len(taken) == 2 * 256 // 8
    one = encode_pairs(model, Similarity(), pairs.query[[1]], pairs.reference[[1]], passes=encoded.passes)
    alone = PairBatch(pairs.query_ids[1:], pairs.reference_ids[1:], pairs.query[[1]], pairs.reference[[1]])
    torch.testing.assert_close(loose(model, one, alone)[0], maps[1])


@pytest.mark.slow
def test_the_standard_error_is_that_of_other_masks(model):
    encoded, pairs, taken = setting(model, count=1)
    whole = RISE(masks=4096, grid=3)(model, encoded, pairs)
    for wanted in (0.5, 0.25, 0.125):
        errors, counts = [], []
        for seed in range(10):
            taken.clear()
            found = RISE(masks=4096, grid=3, seed=seed, standard_error=wanted)(model, encoded, pairs)
            counts.append(len(taken))
            errors.append((found - whole).square().mean().sqrt() / whole.std())
        assert min(counts) < 4096
        assert torch.stack(errors).square().mean().sqrt() < 1.5 * wanted  # with the error of `whole`


def test_a_standard_error_needs_masks():
    with pytest.raises(UserError, match="a standard error needs 128 masks or more"):
        RISE(masks=100, standard_error=0.2)
