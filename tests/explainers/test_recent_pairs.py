"""PAIR-X, FIxLIP, pairwise occlusion and LIME: identities, and definitions in plain loops."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import PairBatch, Reference, Term
from sfam_bench.core.similarity import Dot, NegativeEuclidean
from sfam_bench.core.targets import swap_sides
from sfam_bench.explainers.fixlip import FIxLIP, interactions
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.lime import LIME
from sfam_bench.explainers.pair_x import PairX, match
from sfam_bench.explainers.pairwise_occlusion import PairwiseOcclusion
from sfam_bench.explainers.shared.points import PointToPoint, only_reference, point_to_point
from sfam_bench.explainers.zhu import Zhu
from tests.explainers.masked import added
from tests.explainers.masked import setting as additive
from tests.explainers.networks import CLOSE, setting
from tests.parts import seeded

LINEAR = seeded("linear", 5)

# PAIR-X


def test_matches_are_mutual_nearest_neighbours_in_descending_order_of_relevance():
    points = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    others = torch.tensor([[8.5], [0.9], [0.1]])
    found = match(points, others, torch.tensor([1.0, 2.0, 9.0, 3.0]), torch.tensor([1.0, 4.0, 2.0]))
    assert found.query.tolist() == [1, 3, 0]  # the third point is nearest to 8.5, which is nearer to 9
    assert found.reference.tolist() == [1, 0, 2]
    assert found.relevance.tolist() == [8.0, 3.0, 2.0]


def test_the_map_at_the_cut_sums_to_the_relevance_of_all_matches():
    model, encoded, pairs = setting(head=LINEAR)
    method = PairX(space="cut")
    maps = method(model, encoded, pairs)
    joint = method.point_pairs(model, encoded, pairs)
    torch.testing.assert_close(joint.sum(dim=(3, 4)), maps, **CLOSE)
    for row, one in enumerate(method.find_matches(model, encoded)):
        torch.testing.assert_close(maps[row].sum(), one.relevance.sum(), **CLOSE)
        assert (one.relevance.diff() <= 0).all()
    assert isinstance(method, PointToPoint)


def test_an_image_with_itself_has_the_square_of_its_relevance():
    model, encoded, pairs = setting(head=LINEAR, similarity=Dot(), normalise=False)
    itself = replace(encoded, terms=(Term(1.0, Reference.of(encoded.query)),))
    method = PairX(space="cut")
    own = method.position_relevance(model, itself)
    torch.testing.assert_close(method(model, itself, pairs).flatten(1), own.square(), **CLOSE)


def test_relevance_at_the_cut_starts_as_the_gradient_of_the_score():
    """Behind GAP and a linear head the epsilon rule shares each dimension in proportion to its contributions."""
    model, encoded, _ = setting(head=nn.Linear(5, 5, bias=False), similarity=Dot(), normalise=False)
    weight, reference = model.embedder.projection.weight.double(), encoded.terms[0].side.embeddings
    activations = encoded.query.activations
    shares = torch.einsum("dk,bkij->bdij", weight, activations) / activations[0, 0].numel()
    whole = shares.sum(dim=(2, 3), keepdim=True)
    expected = (shares / whole * reference[:, :, None, None]).sum(dim=1).abs()
    found = PairX(epsilon=1e-12).position_relevance(model, encoded)
    torch.testing.assert_close(found.view_as(expected), expected.detach(), rtol=1e-6, atol=1e-9)


def test_the_pixels_of_a_match_share_its_relevance_and_few_matches_are_drawn():
    model, encoded, pairs = setting(head=LINEAR)
    (first, *_) = PairX().find_matches(model, encoded)
    image = encoded.query.images[0]
    shares = PairX().pixel_relevance(model, image, first.query[:3])
    torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.ones(3, dtype=torch.float64), **CLOSE)
    for count in (1, 2):
        total = PairX(matches=count)(model, encoded, pairs)[0].sum()
        torch.testing.assert_close(total, first.relevance[:count].sum(), **CLOSE)


def test_pair_x_has_no_map_of_a_margin():
    model, encoded, pairs = setting(target="margin")
    with pytest.raises(UserError, match="margin"):
        PairX()(model, encoded, pairs)


# FIxLIP


def patches(grid=2, samples=16, keep=0.5, seed=0):
    """A model whose embedding is the sum over patches of 2 x 3 pixels, up to its bias, and images of 4 x 6."""
    torch.manual_seed(seed)
    model, encoded, pairs = setting(
        trunk=lambda: nn.Conv2d(3, 4, (2, 3), stride=(2, 3), bias=False), similarity=Dot(), normalise=False, size=(4, 6)
    )
    return FIxLIP(grid, samples, keep, baseline="zeros"), model, encoded, pairs


@pytest.mark.parametrize("samples", [12, 16], ids=["drawn", "all"])
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_on_patches_that_add_up_fixlip_is_zhus_product(samples, keep):
    method, model, encoded, pairs = patches(samples=samples, keep=keep)
    expected = point_to_point(model, encoded.query, only_reference(encoded))
    torch.testing.assert_close(method.point_pairs(model, encoded, pairs), expected, **CLOSE)
    zhu = Zhu(rectify="none")
    torch.testing.assert_close(method(model, encoded, pairs), zhu(model, encoded, pairs), **CLOSE)
    torch.testing.assert_close(zhu.point_pairs(model, encoded, pairs), expected, **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_interactions_are_those_of_the_whole_regression(seed):
    draw = torch.Generator().manual_seed(seed)
    members, others = (torch.rand(count, size, generator=draw) < 0.6 for count, size in ((14, 3), (12, 2)))
    weights, theirs = (torch.rand(len(one), generator=draw, dtype=torch.float64) for one in (members, others))
    scores = torch.rand(14, 12, generator=draw, dtype=torch.float64)
    rows, values, root = [], [], []
    for (s, own), (t, other) in product(enumerate(members.double()), enumerate(others.double())):
        pairs_of_own = [own[i] * own[j] for i in range(3) for j in range(i)]
        joint = [a * b for a in own for b in other]
        rows.append(torch.stack([torch.ones(()).double(), *own, *other, *pairs_of_own, other[0] * other[1], *joint]))
        values.append(scores[s, t])
        root.append((weights[s] * theirs[t]).sqrt())
    root = torch.stack(root)
    fit = torch.linalg.lstsq(root[:, None] * torch.stack(rows), (root * torch.stack(values))[:, None], driver="gelsd")
    expected = fit.solution[-6:, 0].view(3, 2)
    torch.testing.assert_close(interactions(scores, members, weights, others, theirs), expected, rtol=1e-8, atol=1e-10)


def test_swapped_images_have_transposed_interactions():
    model, encoded, pairs = setting(head=LINEAR, size=(8, 8))
    method = FIxLIP(grid=2, samples=10)
    turned = PairBatch(pairs.reference_ids, pairs.query_ids, pairs.reference, pairs.query)
    forth, back = (method.point_pairs(model, *one) for one in ((encoded, pairs), (swap_sides(encoded), turned)))
    torch.testing.assert_close(forth, back.permute(0, 3, 4, 1, 2), **CLOSE)


def test_fixlip_of_a_margin_is_the_difference():
    model, encoded, pairs = setting(head=LINEAR, target="margin", size=(8, 8))
    near, far = encoded.terms
    method = FIxLIP(grid=2, samples=10)
    positive = method(model, replace(encoded, terms=(near,)), pairs)
    other = replace(encoded, terms=(replace(far, sign=1.0),))
    negative = method(model, other, replace(pairs, reference_ids=pairs.negative_ids))
    torch.testing.assert_close(method(model, encoded, pairs), positive - negative, **CLOSE)


def test_too_few_masks_are_refused():
    with pytest.raises(UserError, match="samples"):
        FIxLIP(grid=4, samples=16)


# Pairwise occlusion


def test_what_is_credited_to_both_images_sums_to_one():
    model, encoded, pairs = setting(head=LINEAR)
    method = PairwiseOcclusion(samples=7, temperature=0.01)
    turned = PairBatch(pairs.reference_ids, pairs.query_ids, pairs.reference, pairs.query)
    ours, theirs = (method.credited(model, *one) for one in ((encoded, pairs), (swap_sides(encoded), turned)))
    for mine, other in zip(ours, theirs, strict=True):
        credited = torch.stack([one.amax(dim=(1, 2)) for one in (mine, other)])
        assert (credited.amin(dim=0) == 0).all()  # each draw to one image
        torch.testing.assert_close(credited.sum(), torch.ones(()).double(), **CLOSE)


def test_pairwise_occlusion_by_its_definition():
    model, encoded, pairs = setting(head=LINEAR, similarity=NegativeEuclidean(), normalise=False, count=1)
    method = PairwiseOcclusion(samples=5, baseline="mean_colour", temperature=0.5)
    hidden, lengths, embedded = [], [], []
    for image, ids in ((pairs.query, ("q0", "r0")), (pairs.reference, ("r0", "q0"))):
        masks, found = method._occlude(model, image[0], *ids)
        mean = image[0].mean(dim=(1, 2), keepdim=True)
        occluded = [torch.where(mask, mean, image[0])[None] for mask in masks]
        expected = torch.cat([model(one) for one in occluded]).detach()
        torch.testing.assert_close(found.detach(), expected, **CLOSE)
        hidden.append(masks)
        lengths.append(expected.norm(dim=1))
        embedded.append(expected)
    drops = model.similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings) - model.similarity(*embedded)
    shares = (drops / 0.5).exp() / (drops / 0.5).exp().sum()
    total = sum(share * mask for share, mask, a, b in zip(shares, hidden[0], *lengths, strict=True) if a < b)
    torch.testing.assert_close(method(model, encoded, pairs)[0], total * torch.ones(7, 5).double(), **CLOSE)


def test_rectangles_have_the_area_and_aspect_asked_for():
    draw = torch.Generator().manual_seed(0)
    method = PairwiseOcclusion(smallest=0.1, largest=0.3, aspect=1.5)
    for _ in range(50):
        hidden = method.rectangle(60, 80, draw)
        height, width = int(hidden.any(dim=1).sum()), int(hidden.any(dim=0).sum())
        assert hidden.sum() == height * width
        assert 0.09 < height * width / 4800 < 0.31
        assert 0.95 < height / width < 1.57
    with pytest.raises(UserError, match="smallest"):
        PairwiseOcclusion(smallest=0.4)


# LIME


def test_without_a_ridge_on_an_additive_score_each_patch_has_what_it_adds():
    model, encoded, pairs = additive(Dot(), rows=6, cols=8, additive=True)
    expected = KernelSHAP(grid=2, samples=16)(model, encoded, pairs)
    assert added(model, encoded).abs().max() > 0
    torch.testing.assert_close(LIME(grid=2, samples=60, ridge=0.0)(model, encoded, pairs), expected, **CLOSE)


def test_lime_is_the_weighted_ridge_regression_of_its_definition():
    kept = LIME(samples=30).draw(4, "q")
    assert kept[0].all()
    scores = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = LIME(width=0.4, ridge=2.0).fit(kept, scores).numpy()
    ones = np.ones(4)
    weights = []
    for row in kept.numpy().astype(float):
        cosine = row @ ones / (np.linalg.norm(row) * np.linalg.norm(ones)) if row.any() else 0.0
        weights.append(np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.4**2)))
    w, x, y = np.array(weights), kept.numpy().astype(float), scores.numpy()
    x, y = x - w @ x / w.sum(), y - w @ y / w.sum()
    expected = np.linalg.solve(x.T @ (w[:, None] * x) + 2.0 * np.eye(4), x.T @ (w * y))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert LIME().fit(kept, scores * torch.nan).isnan().all()
