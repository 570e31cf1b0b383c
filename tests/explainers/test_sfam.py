"""SFAM's fields, by hand on activations of one or two positions."""

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Reference, Side, Term
from sfam_bench.core.similarity import Cosine, NegativeEuclidean
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.sfam import SFAM, euclidean_weights, normalise_weights, power
from sfam_bench.models.poolings import GAP, GMP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel

# two channels, one row of two positions: pooled query (2, 1), pooled reference (1, 3)
QUERY = torch.tensor([[[[4.0, 0.0]], [[1.0, 1.0]]]])
REFERENCE = torch.tensor([[[[1.0, 1.0]], [[0.0, 6.0]]]])
IMAGES = torch.zeros(1, 3, 2, 4)
PAIRS = PairBatch(("q",), ("r",), IMAGES, IMAGES)


def setting(similarity=None, pooling=None, normalise=False, head=None):
    model = SimilarityModel(
        nn.Identity(), Embedder(pooling or GAP(), head, None, normalise), similarity or Cosine()
    ).eval()
    with torch.no_grad():
        query, reference = (Side(IMAGES, a, model.embedder(a)) for a in (QUERY, REFERENCE))
    return model, Encoded(query, (Term(1.0, Reference.of(reference)),), Passes(model))


def explain(sfam, **options):
    model, encoded = setting(**options)
    return sfam(model, encoded, PAIRS)[0, 0].tolist()


def test_cosine_by_hand():
    lengths = 5**0.5 * 10**0.5
    # CIS = (2 * 1, 1 * 3) / |p||q|; map = CIS_1 (4, 0) + CIS_2 (1, 1)
    assert explain(SFAM()) == pytest.approx([11 / lengths, 3 / lengths])
    assert explain(SFAM(gamma=0.0)) == pytest.approx([7 / lengths, 3 / lengths])
    assert explain(SFAM(gamma=2.0)) == pytest.approx([19 / lengths, 3 / lengths])


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, [1.0, 1.0]), (1.0, [-2.0, 3.0]), (2.0, [-4.0, 9.0])])
def test_a_power_keeps_the_sign_of_what_is_pooled(gamma, expected):
    assert power(torch.tensor([[-2.0, 3.0]]), gamma).tolist() == [expected]


def test_l2_changes_nothing_under_cosine():
    assert explain(SFAM(), normalise=True) == pytest.approx(explain(SFAM()))


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        ("negative", (-1.0, -4.0)),
        ("complement", (3.0, 0.0)),
        ("reciprocal", (1 / 2, 1 / 5)),
        ("exponential", (torch.e**-1, torch.e**-4)),
        ("dissimilarity", (1.0, 4.0)),
    ],
)
def test_euclidean_by_hand(form, weights):
    # delta = (2 - 1)^2, (1 - 3)^2; the lower median, 1, is epsilon and tau
    expected = [weights[0] * 4 + weights[1], weights[1]]
    assert explain(SFAM(euclidean_cis=form), similarity=NegativeEuclidean()) == pytest.approx(expected)


def test_euclidean_on_unit_vectors_by_hand():
    p, q = torch.tensor([2.0, 1.0]) / 5**0.5, torch.tensor([1.0, 3.0]) / 10**0.5
    delta = (p - q).square()
    expected = [float(-4 * delta[0] - delta[1]), float(-delta[1])]
    found = explain(SFAM(euclidean_cis="negative"), similarity=NegativeEuclidean(), normalise=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_dead_channels_do_not_explode_the_reciprocal_form():
    delta = torch.tensor([[0.0, 0.0, 0.0, 2.0, 4.0]])
    weights = euclidean_weights(delta, "reciprocal", None, None)
    assert weights.tolist()[0] == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 6])
    assert euclidean_weights(torch.zeros(1, 3), "reciprocal", None, None).isfinite().all()


def test_a_head_may_make_a_share_negative_but_not_a_pole():
    delta = torch.tensor([[-1.0, 1.0, 3.0]])
    assert euclidean_weights(delta, "reciprocal", None, None).min() > 0
    assert euclidean_weights(delta, "exponential", None, 0.01).max() <= 1


def test_weight_normalisation_by_hand():
    weights = torch.tensor([[1.0, -3.0]])
    assert normalise_weights(weights, "none") is weights
    assert normalise_weights(weights, "l1").tolist() == [[0.25, -0.75]]
    assert normalise_weights(weights, "minmax").tolist() == [[1.0, 0.0]]
    assert normalise_weights(weights, "softmax").tolist()[0] == pytest.approx([0.98201, 0.01799], abs=1e-5)


def test_power_keeps_the_sign():
    pooled = torch.tensor([[-4.0, 0.0, 9.0]])
    assert power(pooled, 0.5).tolist() == [[-2.0, 0.0, 3.0]]
    assert power(pooled, 0.0).tolist() == [[1.0, 1.0, 1.0]]
    assert power(pooled, 1.0).tolist() == pooled.tolist()


def test_relu_drops_the_negative_part():
    kept = explain(SFAM(euclidean_cis="negative", relu=True), similarity=NegativeEuclidean())
    assert kept == [0.0, 0.0]


def test_ignoring_the_head_explains_the_pooled_features():
    head = nn.Linear(2, 3)
    assert explain(SFAM(head="ignore"), head=head) == pytest.approx(explain(SFAM()))
    assert explain(SFAM(head="pull_back"), head=head) != pytest.approx(explain(SFAM()))


def test_pooling_lets_the_maximum_through():
    plain = explain(SFAM(per_position="activation"), pooling=GMP())
    passed = explain(SFAM(per_position="pooling"), pooling=GMP())
    lengths = (16 + 1) ** 0.5 * (1 + 36) ** 0.5
    # p = (4, 1), q = (1, 6): CIS = (4, 6) / lengths; the first of equal maxima is the one let through, times N
    assert plain == pytest.approx([22 / lengths, 6 / lengths])
    assert passed == pytest.approx([2 * 22 / lengths, 0.0])
    assert explain(SFAM(per_position="pooling")) == pytest.approx(explain(SFAM()))


def test_an_early_cut_says_what_it_cannot_do():
    model, encoded = setting()
    model.embedder.tail = nn.Conv2d(2, 2, 1)
    with pytest.raises(UserError, match="right before pooling"):
        SFAM(per_position="pooling")(model, encoded, PAIRS)


def test_ignoring_the_head_keeps_the_scale_of_unit_vectors():
    options = {"similarity": NegativeEuclidean(), "normalise": True}
    ignoring = explain(SFAM(head="ignore", euclidean_cis="negative"), head=nn.Linear(2, 3), **options)
    assert ignoring == pytest.approx(explain(SFAM(euclidean_cis="negative"), **options), rel=1e-5)
