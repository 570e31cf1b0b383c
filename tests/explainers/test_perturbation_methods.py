"""What RISE, CorrRISE, Distance Explainer, RELAX, SBSM and KernelSHAP have in common: budgets, margin, both sides."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import field_notes, formula_and_source
from sfam_bench.core.records import PairBatch, Reference
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Margin, Similarity, swap_sides
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.corr_rise import CorrRISE
from sfam_bench.explainers.distance_explainer import DistanceExplainer
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.sbsm import SBSM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.explainers.shared.forms import Sampling
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.explainers.masked import CLOSE, LINEAR, METHODS, named, setting
from tests.parts import SIMILARITIES

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
    theirs = method(model, swap_sides(encoded), turned)
    assert theirs.isfinite().all()
    assert not torch.allclose(theirs, maps)
    (term,) = encoded.terms
    images = pairs.reference.flip(0)
    other = replace(encoded, terms=(replace(term, side=Reference.of(model.encode(images))),))
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
