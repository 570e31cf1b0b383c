"""CAM and FAM: identities in float64, and by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.core.records import Encoded, PairBatch, Reference, Side, Term
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import swap_sides
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.cam import CAM
from sfam_bench.explainers.fam import FAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import CLOSE, HEADS, POOLINGS, SIMILARITIES, TARGETS, explain

some = settings(max_examples=25, deadline=None)
anything = given(
    pooling=st.sampled_from(POOLINGS),
    head=st.sampled_from(sorted(HEADS)),
    similarity=st.sampled_from(SIMILARITIES),
    normalise=st.booleans(),
    channels=st.integers(2, 7),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    target=st.sampled_from(sorted(TARGETS)),
)


def setting(
    pooling=GAP,
    head="linear",
    similarity=SIMILARITIES[0],
    normalise=True,
    channels=5,
    rows=3,
    cols=4,
    seed=0,
    target="similarity",
):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Softplus())
    model = SimilarityModel(trunk, Embedder(pooling(), HEADS[head](channels), None, normalise), similarity)
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64)
    return model.double().eval(), encode_pairs(model, TARGETS[target], *images)


def by_hand(explainer, similarity, pooling=GAP, head=None):
    """Two channels, one row of two positions: pooled query (2, 1), pooled reference (1, 3)."""
    model = SimilarityModel(nn.Identity(), Embedder(pooling(), head, None, False), similarity).eval()
    images = torch.zeros(1, 3, 2, 4)
    query, reference = torch.tensor([[[[4.0, 0.0]], [[1.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0]], [[0.0, 6.0]]]])
    with torch.no_grad():
        sides = [Side(images, a, model.embedder(a)) for a in (query, reference)]
    encoded = Encoded(sides[0], (Term(1.0, Reference.of(sides[1])),), Passes(model))
    return explainer(model, encoded, PairBatch(("q",), ("r",), images, images))[0, 0].tolist()


def test_cam_by_hand():
    lengths = 5**0.5 * 10**0.5
    # (1, 3) is the weight of the channels (4, 0) and (1, 1)
    assert by_hand(CAM(), Dot()) == [7.0, 3.0]
    assert by_hand(CAM(), Cosine()) == pytest.approx([7 / lengths, 3 / lengths])
    # (1, 3) - (2, 1) = (-1, 2)
    assert by_hand(CAM(), NegativeEuclidean()) == [-2.0, 2.0]
    assert by_hand(CAM(relu=True), NegativeEuclidean()) == [0.0, 2.0]
    # under GMP the reference is (1, 6)
    assert by_hand(CAM(), Dot(), GMP) == [10.0, 6.0]
    head = nn.Linear(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -2.0]]))
        head.bias.fill_(3.0)
    # the reference's embedding is 1 - 6 + 3 = -2, pulled back (-2, 4)
    assert by_hand(CAM(), Dot(), head=head) == [-4.0, 4.0]


@some
@anything
def test_under_gap_cam_is_n_times_the_decomposition_and_with_other_poolings_not(pooling, **drawn):
    model, encoded = setting(pooling, **drawn)
    exact = explain(SimilarityDecomposition(), model, encoded)
    expected, found = exact * exact[0].numel(), explain(CAM(), model, encoded)
    if pooling is GAP or (exact[0].numel() == 1 and pooling is not GAPGMP):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    else:
        assert (found - expected).abs().max() > 1e-6 * found.abs().max()


@some
@anything
def test_cam_is_sfam_with_gamma_zero(**drawn):
    drawn["similarity"] = Dot() if isinstance(drawn["similarity"], NegativeEuclidean) else drawn["similarity"]
    model, encoded = setting(**drawn)
    torch.testing.assert_close(explain(CAM(), model, encoded), explain(SFAM(gamma=0.0), model, encoded), **CLOSE)


@some
@anything
def test_cam_on_the_dot_product_under_gap_is_n_times_grad_cam(**drawn):
    model, encoded = setting(**{**drawn, "pooling": GAP, "similarity": Dot(), "normalise": False})
    expected = explain(GradCAM(relu=False), model, encoded)
    torch.testing.assert_close(explain(CAM(), model, encoded), expected * expected[0].numel(), **CLOSE)


@pytest.mark.parametrize("explainer", [CAM(), *(FAM(how) for how in ("none", "l1", "minmax", "softmax"))], ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_margin_map_is_the_map_of_the_positive_minus_that_of_the_negative(explainer, similarity):
    model, encoded = setting(similarity=similarity, target="margin", pooling=GeM)
    positive, negative = (
        explain(explainer, model, replace(encoded, terms=(replace(t, sign=1.0),))) for t in encoded.terms
    )
    torch.testing.assert_close(explain(explainer, model, encoded), positive - negative, **CLOSE)


def test_the_two_sides_of_a_euclidean_cam_share_the_score():
    model, encoded = setting(head="none", similarity=NegativeEuclidean())
    found = sum(explain(CAM(), model, seen).mean(dim=(1, 2)) for seen in (encoded, swap_sides(encoded)))
    expected = NegativeEuclidean()(encoded.query.embeddings, encoded.terms[0].side.embeddings)
    torch.testing.assert_close(found, expected, **CLOSE)


# FAM


def test_fam_by_hand():
    lengths = 5**0.5 * 10**0.5
    # shares (2, 3) / lengths, to (0, 1) by their range
    assert by_hand(FAM(), Cosine()) == pytest.approx([1.0, 1.0])
    assert by_hand(FAM("none"), Cosine()) == pytest.approx([11 / lengths, 3 / lengths])
    assert by_hand(FAM("l1"), Cosine()) == pytest.approx([11 / 5, 3 / 5])
    # distances 1 and 4, exp(-1) and exp(-4): to (1, 0)
    assert by_hand(FAM(), NegativeEuclidean()) == pytest.approx([4.0, 0.0])
    assert by_hand(FAM("none", euclidean_cis="negative"), NegativeEuclidean()) == pytest.approx([-8.0, -4.0])
    assert by_hand(FAM("none", euclidean_cis="negative", relu=True), NegativeEuclidean()) == [0.0, 0.0]


@some
@anything
def test_fam_is_sfam_scaled_and_under_minmax_moved_by_the_channel_sum(**drawn):
    drawn["target"] = "similarity"
    model, encoded = setting(**drawn)
    query, reference = encoded.query, encoded.terms[0].side
    weights = SFAM().weights(model, query, reference)
    low, high = (found[:, None, None] for found in (weights.amin(dim=1), weights.amax(dim=1)))
    moved = explain(SFAM(), model, encoded) - low * query.activations.sum(dim=1)
    torch.testing.assert_close(explain(FAM(), model, encoded) * (high - low), moved, rtol=1e-8, atol=1e-10)
    sized = explain(FAM("l1"), model, encoded) * weights.abs().sum(dim=1)[:, None, None]
    torch.testing.assert_close(sized, explain(SFAM(), model, encoded), **CLOSE)
    ignoring = SFAM(head="ignore", weight_normalisation="minmax")
    torch.testing.assert_close(explain(FAM(head="ignore"), model, encoded), explain(ignoring, model, encoded), **CLOSE)
