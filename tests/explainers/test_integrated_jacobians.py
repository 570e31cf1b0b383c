"""Integrated Jacobians: identities in float64, and beside Jacobians that are written out."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import swap_sides
from sfam_bench.explainers.integrated_gradients import IntegratedGradients
from sfam_bench.explainers.integrated_jacobians import IntegratedJacobians, point_to_point
from sfam_bench.explainers.shared import pixels
from sfam_bench.explainers.shared.products import before_l2, factor
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.poolings import GAP, GAPGMP, GeM
from tests.explainers.networks import CLOSE, rectifiers, setting
from tests.parts import SIMILARITIES, TARGETS, total

SPACES = ["cut", "image"]


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))


def raw(model, images):
    return before_l2(model, model.trunk(images)).detach()


@pytest.mark.parametrize("head", [None, nn.Linear(5, 4, bias=False)], ids=["none", "linear"])
def test_at_the_cut_from_zero_it_is_the_similarity_decomposition(head):
    case = setting(head=head, similarity=Dot(), normalise=False)
    expected = SimilarityDecomposition()(*case)
    for quadrature in ("right", "midpoint", "gauss_legendre"):
        found = IntegratedJacobians(steps=3, quadrature=quadrature)(*case)
        torch.testing.assert_close(found, expected, **CLOSE)


def test_at_the_cut_point_to_point_it_is_zhus_product():
    head = nn.Linear(5, 4, bias=False).double()
    model, encoded, _ = setting(head=head, similarity=Dot(), normalise=False)
    query, reference = encoded.query, encoded.terms[0].side.side_for("a test")
    found = point_to_point(IntegratedJacobians(), model, query, reference)
    points = [torch.einsum("dk,bkij->bdij", head.weight, side.activations) for side in (query, reference)]
    expected = torch.einsum("bdij,bdxy->bijxy", *points) / points[0][0, 0].numel() ** 2
    torch.testing.assert_close(found, expected.detach(), **CLOSE)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_point_to_point_sums_to_the_map_of_either_side(similarity, space):
    model, encoded, pairs = setting(head=mlp(), similarity=similarity, size=(4, 3))
    method = IntegratedJacobians(space, steps=3, baseline="mean_colour")
    points = point_to_point(method, model, encoded.query, encoded.terms[0].side.side_for("a test"))
    torch.testing.assert_close(points.sum(dim=(3, 4)), method(model, encoded, pairs), **CLOSE)
    torch.testing.assert_close(points.sum(dim=(1, 2)), method(model, swap_sides(encoded), pairs), **CLOSE)


@pytest.mark.parametrize("space", SPACES)
def test_it_is_the_product_of_jacobians_that_are_written_out(space):
    model, encoded, pairs = setting(head=mlp(), size=(4, 3), count=1)
    method, sides = (
        IntegratedJacobians(space, steps=4, baseline="mean_colour"),
        (encoded.query, encoded.terms[0].side.side_for("a test")),
    )
    jacobians, changes = [], []
    for side in sides:
        x = side.images if space == "image" else side.activations
        r = side.images.mean(dim=(2, 3), keepdim=True).expand_as(side.images)
        r = (r if space == "image" else model.trunk(r)).detach()
        network = model.trunk if space == "image" else nn.Identity()
        steps = [
            torch.autograd.functional.jacobian(lambda x: before_l2(model, network(x))[0], r + (x - r) * n / 4)  # noqa: B023
            for n in range(1, 5)
        ]
        jacobians.append(torch.stack(steps).mean(dim=0).flatten(1))
        changes.append((x - r).flatten())
    matrix = changes[0][:, None] * (jacobians[0].T @ jacobians[1]) * changes[1]
    lengths = [before_l2(model, side.activations).norm() for side in sides]
    expected = (matrix.sum(dim=1) / lengths[0] / lengths[1]).view(x.shape).sum(dim=1).detach()
    torch.testing.assert_close(method(model, encoded, pairs), expected, **CLOSE)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("pooling", [GAP, GeM])
@pytest.mark.parametrize("space", SPACES)
def test_the_map_and_the_reference_terms_balance(space, pooling, similarity, target):
    def smooth():
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Softplus())

    model, encoded, _ = setting(smooth, pooling, mlp(), similarity, target=target)
    method = IntegratedJacobians(space, 12, "blur", "gauss_legendre")
    maps, terms, residual = method.split(model, encoded)
    assert residual.abs().max() < 1e-8 * maps.abs().sum()
    torch.testing.assert_close(total(maps), terms @ terms.new_tensor([1, -1, -1, 1]) + residual, **CLOSE)
    if isinstance(similarity, Cosine) and target == "similarity":
        torch.testing.assert_close(terms[:, 0], similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings))
    few = replace(method, steps=2, quadrature="right").split(model, encoded)[2]
    assert few.abs().max() > 10 * residual.abs().max()


def test_the_terms_are_products_with_the_reference_inputs():
    model, encoded, pairs = setting(head=mlp(), similarity=Dot(), normalise=False)
    _, terms, _ = IntegratedJacobians("image", baseline="mean_colour").split(model, encoded)
    a, b = pairs.query, pairs.reference
    blank_a, blank_b = (image.mean(dim=(2, 3), keepdim=True).expand_as(image) for image in (a, b))
    expected = [(raw(model, left) * raw(model, right)).sum(dim=1) for left in (a, blank_a) for right in (b, blank_b)]
    torch.testing.assert_close(terms, torch.stack(expected, dim=1), **CLOSE)


def test_behind_rectifiers_without_biases_it_is_integrated_gradients_from_black():
    case = setting(lambda: rectifiers(bias=False), similarity=Dot(), normalise=False)
    found = IntegratedJacobians("image", steps=3)(*case)
    torch.testing.assert_close(found, IntegratedGradients(steps=3)(*case), **CLOSE)


def test_null_in_image_space_is_black():
    case = setting(target="margin")
    black = IntegratedJacobians("image", baseline="zeros")(*case)
    assert torch.equal(IntegratedJacobians("image")(*case), black)


def test_lengths_are_those_of_the_embeddings_the_score_sees():
    e, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    cases = {Cosine(): (0.1, 0.1), Dot(): (0.1, 1.0), NegativeEuclidean(): (0.2, 2.0)}
    for similarity, expected in cases.items():
        for normalise, times in zip((True, False), expected, strict=True):
            model, _, _ = setting(similarity=similarity, normalise=normalise)
            assert float(factor(model, e, other)) == pytest.approx(times)


def test_a_score_that_is_no_product_is_refused():
    shared = ("__call__", "split", "direction", "keys", "compare", "matrix")
    other = type("Other", (), {"name": "other", **{name: getattr(Dot, name) for name in shared}})
    with pytest.raises(UserError, match="inner product"):
        IntegratedJacobians()(*setting(similarity=other()))


@pytest.mark.parametrize("space", SPACES)
def test_chunks_stay_small_and_do_not_matter(space, monkeypatch):
    method = IntegratedJacobians(space, steps=4)
    model, encoded, pairs = setting(pooling=GAPGMP, head=mlp(), target="margin")
    expected = method(model, encoded, pairs)
    seen = []
    part = model.trunk if space == "image" else model.embedder.pooling
    part.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(pixels, "PIXELS", 3 * 7 * 5 + 1)
    torch.testing.assert_close(method(model, encoded, pairs), expected, **CLOSE)
    assert max(seen) == 3


def test_bad_fields_are_refused_and_the_card_is_whole():
    with pytest.raises(UserError, match="steps"):
        IntegratedJacobians(steps=0)
    assert all(formula_and_source(IntegratedJacobians))
    assert set(field_notes(IntegratedJacobians)) == set(vars(IntegratedJacobians()))
