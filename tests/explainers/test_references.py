"""Prototypes, vectors and targets over several references: identities in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import card_of
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.references import MEAN, Given, Prototype, Supports, Vectors
from sfam_bench.core.similarity import Cosine, NegativeEuclidean
from sfam_bench.core.targets import (
    BestRival,
    ClassScore,
    Margin,
    Similarity,
    Target,
    Threshold,
    comparisons,
    linear_part,
    score,
    swap_sides,
)
from sfam_bench.evaluation.supports import support_maps
from sfam_bench.explainers.bilrp import BiLRP
from sfam_bench.explainers.fam import FAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.integrated_jacobians import IntegratedJacobians
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.explainers.stylianou import Stylianou
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from tests.explainers.test_identities import setting
from tests.parts import AFFINE, CLOSE, SIMILARITIES, total

NEED_IMAGES = [Zhu(), Zhu("none"), Stylianou(), BiLRP("cut"), IntegratedJacobians()]
EMBEDDING_ALONE = [SFAM(), GradCAM(), SimilarityDecomposition(), SFAM(head="jacobian_of_shares")]
METHODS = [*NEED_IMAGES, *EMBEDDING_ALONE]
SUPPORTS = torch.rand(5, 3, 11, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NAMES = tuple("stuvw")
SIMILARITY = Similarity()
MEMBERS = ((0, 1, 2), (1, 3, 4))  # the second image is shared


def supports(how: Prototype = MEAN) -> Supports:
    return Supports(SUPPORTS, MEMBERS, NAMES, how)


def seen(
    model: SimilarityModel,
    pairs: PairBatch,
    reference: Given,
    target: Target = SIMILARITY,
    rivals: tuple[Given, ...] = (),
    negative: Given | None = None,
) -> Encoded:
    return encode_pairs(model, target, pairs.query, reference, negative, rivals=rivals)


def made(method: Explainer, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> Tensor:
    return method(model, encoded, pairs)


@pytest.mark.parametrize("head", ["none", "neck", "mlp"])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_prototype_of_one_image_is_that_image(method, similarity, head):
    model, pairs, image = setting(head=head, similarity=similarity)
    single = Supports(pairs.reference, ((0,), (1,)), ("c", "d"))
    assert torch.equal(made(method, model, seen(model, pairs, single), pairs), made(method, model, image, pairs))


@pytest.mark.parametrize("how", ["medoid", "nearest"])
def test_a_chosen_image_is_the_reference(how):
    model, pairs, _ = setting(head="linear")
    encoded = seen(model, pairs, supports(Prototype(how)))
    query, others = encoded.query.embeddings, model.encode(SUPPORTS).embeddings
    for pair, rows in enumerate(MEMBERS):
        own = others[list(rows)]
        towards = own.sum(dim=0, keepdim=True) - own if how == "medoid" else query[[pair]].expand_as(own)
        best = (own * towards).sum(dim=1).argmax()
        torch.testing.assert_close(encoded.terms[0].side.embeddings[pair], own[best], **CLOSE)
    assert len(encoded.terms[0].side.blend.rows) == 2  # the others are left out


@pytest.mark.parametrize("normalise", ["never", "before", "after", "both"])
def test_the_mean_is_normalised_where_the_field_says(normalise):
    model, pairs, _ = setting(normalise=False)
    found = seen(model, pairs, supports(Prototype(normalise=normalise))).terms[0].side.embeddings
    for pair, rows in enumerate(MEMBERS):
        own = model.encode(SUPPORTS[list(rows)]).embeddings
        if normalise in ("before", "both"):
            own = own / own.norm(dim=1, keepdim=True)
        mean = own.mean(dim=0)
        expected = mean / mean.norm() if normalise in ("after", "both") else mean
        torch.testing.assert_close(found[pair], expected, **CLOSE)


@pytest.mark.parametrize("normalise", [True, False], ids=["l2", "raw"])
@pytest.mark.parametrize("how", ["never", "before", "after"])
@pytest.mark.parametrize("head", AFFINE)
@pytest.mark.parametrize("method", NEED_IMAGES[1:], ids=str)
def test_a_map_over_supports_is_that_of_the_mean_activations(method, head, how, normalise):
    """For methods that are linear in the reference's positions: the same as a product with the sum over all of them."""
    model, pairs, _ = setting(head=head, similarity=Cosine(), normalise=normalise)
    blended = seen(model, pairs, supports(Prototype(normalise=how)))
    expected = torch.zeros_like(made(method, model, blended, pairs))
    for pair, rows in enumerate(MEMBERS):
        own = model.encode(SUPPORTS[list(rows)]).embeddings
        weight = 1 / own.norm(dim=1) if how == "before" else torch.ones(3, dtype=own.dtype)
        if isinstance(method, Stylianou):  # it combines pooled features in the same way
            features = model.embedder.features(model.encode(SUPPORTS[list(rows)]).activations)
            mean = (features * weight[:, None]).sum(dim=0)
            weight = weight * features.norm(dim=1) / mean.norm()
        else:
            weight = weight * own.norm(dim=1) / (own * weight[:, None]).sum(dim=0).norm()
        for row, share in zip(rows, weight, strict=True):
            image = seen(model, pairs, SUPPORTS[[row, row]])
            expected[pair] += share * made(method, model, image, pairs)[pair]
    torch.testing.assert_close(made(method, model, blended, pairs), expected, **CLOSE)


@pytest.mark.parametrize("similarity", SIMILARITIES[:2], ids=lambda s: s.name)
@pytest.mark.parametrize("method", [Zhu("none", "spread"), SimilarityDecomposition()], ids=str)
def test_additive_maps_of_a_prototype_sum_to_the_score(method, similarity):
    head = "no_bias" if isinstance(method, SimilarityDecomposition) else "linear"
    model, pairs, _ = setting(head=head, similarity=similarity)
    encoded = seen(model, pairs, supports())
    value = score(similarity, encoded.query.embeddings, encoded.terms)
    torch.testing.assert_close(total(made(method, model, encoded, pairs)), value, **CLOSE)


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_vector_gives_the_map_of_its_image_or_is_refused(method, similarity, head):
    model, pairs, image = setting(head=head, similarity=similarity)
    vector = seen(model, pairs, Vectors(image.terms[0].side.embeddings))
    behind = head != "none" and similarity == NegativeEuclidean() and method == SFAM()
    if card_of(method).needs_images or behind:
        with pytest.raises(UserError, match="the reference is a vector, without an image"):
            made(method, model, vector, pairs)
    else:
        expected = made(method, model, image, pairs)
        torch.testing.assert_close(made(method, model, vector, pairs), expected, **CLOSE)


def test_sfam_ignoring_the_head_refuses_a_vector():
    model, pairs, image = setting(head="linear")
    with pytest.raises(UserError, match="SFAM with head=ignore needs the activations"):
        SFAM(head="ignore")(model, seen(model, pairs, Vectors(image.terms[0].side.embeddings)), pairs)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
@pytest.mark.parametrize("head", ["ignore", "pull_back"])
def test_sfam_of_a_prototype_has_the_weights_of_the_mean(head, similarity):
    model, pairs, _ = setting(similarity=similarity)
    encoded = seen(model, pairs, supports())
    mean = encoded.terms[0].side.embeddings
    vector = seen(model, pairs, Vectors(mean))
    torch.testing.assert_close(
        SFAM(head=head).weights(model, encoded.query, encoded.terms[0].side),
        SFAM(head=head).weights(model, encoded.query, vector.terms[0].side),
        **CLOSE,
    )


def test_a_distance_to_a_prototype_behind_a_head_is_split_over_channels():
    """The shares of query and prototype sum to the squared distance, as those of two images do."""
    model, pairs, _ = setting(head="no_bias", similarity=NegativeEuclidean())
    encoded = seen(model, pairs, supports())
    delta = SFAM(euclidean_cis="dissimilarity").weights(model, encoded.query, encoded.terms[0].side)
    distance = -score(model.similarity, encoded.query.embeddings, encoded.terms)
    torch.testing.assert_close(delta.sum(dim=1), distance, **CLOSE)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_slopes_are_those_of_autograd(similarity):
    model, pairs, image = setting(head="linear", similarity=similarity)
    rivals = (Vectors(image.terms[0].side.embeddings.flip(0)), Supports(SUPPORTS, MEMBERS, NAMES))
    encoded = seen(model, pairs, pairs.reference, ClassScore(0.3), rivals)
    leaf = encoded.query.embeddings.clone().requires_grad_()
    (expected,) = torch.autograd.grad(score(similarity, leaf, encoded.terms).sum(), leaf)
    gradient = torch.zeros_like(expected)
    for slope, reference in comparisons(similarity, encoded.query.embeddings, encoded.terms):
        leaf = encoded.query.embeddings.clone().requires_grad_()
        gradient += slope * torch.autograd.grad(similarity(leaf, reference.embeddings).sum(), leaf)[0]
    torch.testing.assert_close(gradient, expected, **CLOSE)


def test_class_scores_of_all_classes_sum_to_one_and_match_softmax():
    model, pairs, _ = setting()
    references = [pairs.reference, pairs.negative, SUPPORTS[:2]]
    scores = []
    for place in range(3):
        rivals = tuple(references[:place] + references[place + 1 :])
        encoded = seen(model, pairs, references[place], ClassScore(0.1), rivals)
        scores.append(score(model.similarity, encoded.query.embeddings, encoded.terms))
    torch.testing.assert_close(sum(scores), torch.ones(2, dtype=torch.float64), **CLOSE)
    query = model.encode(pairs.query).embeddings
    compared = torch.stack([model.similarity(query, model.encode(one).embeddings) for one in references], dim=1)
    torch.testing.assert_close(torch.stack(scores, dim=1), (compared / 0.1).softmax(dim=1), **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_class_score_explains_the_weighted_comparisons(method):
    model, pairs, _ = setting(head="linear")
    encoded = seen(model, pairs, pairs.reference, ClassScore(0.2), (pairs.negative,))
    if isinstance(method, GradCAM):
        method = replace(method, relu=False)
    elif isinstance(method, Zhu):
        method = replace(method, rectify="none")
    parts = []
    for slope, reference in comparisons(model.similarity, encoded.query.embeddings, encoded.terms):
        alone = replace(encoded, terms=(replace(encoded.terms[0], side=reference, rivals=()),))
        parts.append(slope[:, :, None] * made(method, model, alone, pairs))
    torch.testing.assert_close(made(method, model, encoded, pairs), sum(parts), **CLOSE)


def test_an_additive_map_of_a_class_score_sums_to_its_linear_part():
    model, pairs, _ = setting(head="no_bias")
    encoded = seen(model, pairs, supports(), ClassScore(0.2), (pairs.negative,))
    maps = made(SimilarityDecomposition(), model, encoded, pairs)
    expected = linear_part(model.similarity, encoded.query.embeddings, encoded.terms)
    torch.testing.assert_close(total(maps), expected, **CLOSE)


def test_a_threshold_shifts_the_score_and_not_the_map():
    model, pairs, plain = setting()
    shifted = seen(model, pairs, pairs.reference, Threshold(0.25))
    value, whole = (score(model.similarity, plain.query.embeddings, e.terms) for e in (shifted, plain))
    torch.testing.assert_close(value, whole - 0.25, **CLOSE)
    for method in METHODS:
        assert torch.equal(made(method, model, shifted, pairs), made(method, model, plain, pairs))
    assert torch.equal(linear_part(model.similarity, plain.query.embeddings, shifted.terms), whole)


def test_the_best_rival_is_a_margin():
    model, pairs, _ = setting(head="linear")
    found = [seen(model, pairs, supports(), target, negative=pairs.negative) for target in (BestRival(), Margin())]
    one, two = (made(SFAM(), model, encoded, pairs) for encoded in found)
    assert torch.equal(one, two)
    parts = [made(SFAM(), model, seen(model, pairs, given), pairs) for given in (supports(), pairs.negative)]
    torch.testing.assert_close(one, parts[0] - parts[1], **CLOSE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Vectors(torch.zeros(2, 3)), "reference vector 0 is all zeros"),
        (lambda: Vectors(torch.tensor([[1.0], [float("nan")]])), "reference vector 1 holds NaN"),
        (lambda: Supports(torch.rand(2, 3, 4, 4), ((0,), ()), ("a", "b")), "a support set is empty"),
        (lambda: Supports(torch.rand(2, 3, 4, 4), ((0, 0),), ("a", "b")), "not different rows"),
        (lambda: Supports(torch.rand(2, 3, 4, 4), ((0, 2),), ("a", "b")), "not different rows"),
        (lambda: Supports(torch.rand(2, 3, 4, 4), ((0,),), ("a",)), "give one for each"),
    ],
)
def test_bad_references_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


def test_a_query_may_not_be_its_own_support():
    model, pairs, _ = setting()
    with pytest.raises(UserError, match="the query a is among its own supports"):
        replace(pairs, reference=Supports(SUPPORTS, MEMBERS, ("x", "a", "b", "c", "d")))
    images = torch.cat([SUPPORTS[:4], pairs.query[1:]])
    with pytest.raises(UserError, match="a query has the pixels of its own support w"):
        seen(model, pairs, Supports(images, MEMBERS, NAMES))


def test_vectors_of_another_space_are_refused():
    model, pairs, _ = setting()
    with pytest.raises(UserError, match="give vectors of the same space"):
        seen(model, pairs, Vectors(torch.rand(2, 99)))


def test_a_class_score_needs_rivals():
    model, pairs, _ = setting()
    with pytest.raises(UserError, match="class_score needs references of other classes"):
        seen(model, pairs, pairs.reference, ClassScore())


def test_the_authors_convention_without_a_head_is_fam():
    authors = SFAM(head="jacobian_of_shares", order="normalise_first", weight_normalisation="minmax")
    model, pairs, encoded = setting(pooling=GAP)
    one, two = (made(method, model, encoded, pairs) for method in (authors, FAM()))
    # w differs by the length of the embedding before L2, which changes no ranking
    scale = (one / two).flatten(1)
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), **CLOSE)


def test_normalising_first_needs_shares():
    with pytest.raises(UserError, match="needs head=jacobian_of_shares"):
        SFAM(order="normalise_first")


@pytest.mark.parametrize("normalise", ["never", "before", "after"])
@pytest.mark.parametrize("similarity", SIMILARITIES[:2], ids=lambda s: s.name)
@pytest.mark.parametrize("method", [Zhu("none", "spread"), SimilarityDecomposition()], ids=str)
def test_additive_maps_of_the_supports_add_up_to_the_score(method, similarity, normalise):
    model, pairs, _ = setting(head="no_bias", similarity=similarity, normalise=False)
    encoded = seen(model, pairs, supports(Prototype(normalise=normalise)))
    maps = support_maps(method, model, encoded, pairs)
    assert len(maps) == 6
    per_pair = torch.zeros(2, dtype=maps.dtype).index_add(0, encoded.terms[0].side.blend.pairs, total(maps))
    torch.testing.assert_close(per_pair, score(similarity, encoded.query.embeddings, encoded.terms), **CLOSE)


def test_maps_of_supports_under_a_distance_add_up_to_their_mean_distance():
    """Half of each distance is the support's side of it: the other half is the query's."""
    model, pairs, _ = setting(head="no_bias", similarity=NegativeEuclidean(), normalise=False)
    encoded = seen(model, pairs, supports())
    side, blend = encoded.terms[0].side, encoded.terms[0].side.blend
    maps = support_maps(SimilarityDecomposition(), model, encoded, pairs)
    own = blend.side.embeddings[blend.rows]
    expected = ((encoded.query.embeddings[blend.pairs] - own) * own).sum(dim=1) / 3
    torch.testing.assert_close(total(maps), expected, **CLOSE)
    mean = torch.zeros(2, dtype=maps.dtype).index_add(0, blend.pairs, total(maps))
    spread = torch.zeros_like(mean).index_add(0, blend.pairs, (own - side.embeddings[blend.pairs]).square().sum(1) / 3)
    of_prototype = ((encoded.query.embeddings - side.embeddings) * side.embeddings).sum(dim=1)
    torch.testing.assert_close(mean, of_prototype - spread, **CLOSE)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_the_support_of_one_image_has_the_map_of_the_swapped_pair(similarity):
    model, pairs, image = setting(head="linear", similarity=similarity)
    single = seen(model, pairs, Supports(pairs.reference.flip(0), ((1,), (0,)), ("d", "c")))
    for method in METHODS:
        expected = made(method, model, swap_sides(image), pairs)
        torch.testing.assert_close(support_maps(method, model, single, pairs), expected, **CLOSE)


def test_a_vector_has_no_support_with_a_map():
    model, pairs, image = setting()
    with pytest.raises(UserError, match="a map of its supports needs the activations"):
        support_maps(SFAM(), model, seen(model, pairs, Vectors(image.terms[0].side.embeddings)), pairs)


@pytest.mark.parametrize("how", ["medoid", "nearest"])
def test_a_chosen_image_is_a_single_image_for_every_use(how):
    model, pairs, _ = setting(head="linear")
    encoded = seen(model, pairs, supports(Prototype(how)))
    side = encoded.terms[0].side
    chosen = side.blend.rows
    image = seen(model, pairs, SUPPORTS[chosen])
    assert side.is_image
    assert torch.equal(side.side_for("a test").images, SUPPORTS[chosen])
    for method in METHODS:
        expected = made(method, model, swap_sides(image), pairs)
        torch.testing.assert_close(support_maps(method, model, encoded, pairs), expected, **CLOSE)
