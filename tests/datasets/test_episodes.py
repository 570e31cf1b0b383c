"""Episodes: drawn by seed and number alone, no support is a query, accuracies and pairs by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.references import Prototype, Supports, Vectors
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, unit
from sfam_bench.core.targets import ClassScore, Margin, Similarity, score
from sfam_bench.datasets.batches import cut_batches, load_batch
from sfam_bench.datasets.class_weights import ClassWeights
from sfam_bench.datasets.episodes import Episodes, score_classes
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import encode_batch
from sfam_bench.retrieval.few_shot import episode_facts
from tests.datasets.test_pairs import EACH, Toy

IDS = list(Toy().index.index)
SMALL = Episodes(ways=3, shots=2, queries=1, count=20, explained=10)


@given(st.integers(2, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_no_support_is_a_query_and_all_are_of_their_class(ways: int, shots: int, queries: int, seed: int) -> None:
    episodes = Episodes(ways, shots, queries, count=5, seed=seed)
    if shots + queries > EACH:
        with pytest.raises(UserError, match=r"has 0 classes here with .* \(the largest has 4 images\)"):
            episodes.check(Toy(), IDS)
        return
    labels = Toy().index["label"].to_numpy()
    for episode in episodes.draw(Toy(), IDS):
        assert len(set(episode.labels)) == ways
        assert episode.supports.shape == (ways, shots)
        assert episode.queries.shape == (ways, queries)
        for drawn in (episode.supports, episode.queries):
            assert (labels[drawn] == episode.labels[:, None]).all()
        assert len({*episode.supports.flat, *episode.queries.flat}) == ways * (shots + queries)


def test_an_episode_depends_on_seed_and_number_alone() -> None:
    first, more = ([e.queries.tolist() for e in replace(SMALL, count=n).draw(Toy(), IDS)] for n in (5, 20))
    assert more[:5] == first
    assert len({str(queries) for queries in more}) > 15
    assert [e.queries.tolist() for e in replace(SMALL, seed=1).draw(Toy(), IDS)] != more


def test_roles_are_kept() -> None:
    toy = Toy()
    toy.index["is_query"] = np.arange(24) % EACH < 2
    toy.index["is_gallery"] = np.arange(24) % EACH >= 1
    with pytest.raises(UserError, match="2 supports and 2 queries"):  # the shared image may be a support
        replace(SMALL, shots=2, queries=2).check(toy, IDS)
    for episode in SMALL.draw(toy, IDS):
        assert toy.index["is_query"].to_numpy()[episode.queries].all()
        assert toy.index["is_gallery"].to_numpy()[episode.supports].all()


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()])
@pytest.mark.parametrize("normalise", ["never", "before", "after", "both"])
@pytest.mark.parametrize("of", ["mean", "nearest"])
def test_scores_are_those_of_the_references_that_are_explained(of: str, normalise: str, similarity: Cosine) -> None:
    """Against what `encode_reference` makes of the same supports, pair by pair."""
    random = torch.Generator().manual_seed(0)
    queries, supports = (torch.randn(*size, 5, generator=random).double() for size in ((4,), (3, 2)))
    how = Prototype(of, normalise)  # type: ignore[arg-type]
    found = score_classes(similarity, how, queries, supports)
    for q, query in enumerate(queries):
        for way, own in enumerate(supports):
            shares = how.shares(similarity, query[None], own, torch.zeros(2, dtype=torch.long))
            expected = similarity(query[None], (own * shares[:, None]).sum(dim=0, keepdim=True))
            torch.testing.assert_close(found[q, way], expected[0], rtol=1e-9, atol=1e-9)


def test_accuracy_by_loops() -> None:
    gallery = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    found = SMALL.accuracies(Toy(), NegativeEuclidean(), gallery, IDS)
    for episode, accuracy in zip(SMALL.draw(Toy(), IDS), found, strict=True):
        right = 0
        for way, own in enumerate(episode.queries):
            prototypes = torch.stack([gallery[torch.from_numpy(s)].mean(dim=0) for s in episode.supports])
            right += sum(int((gallery[at] - prototypes).norm(dim=1).argmin()) == way for at in own)
        assert accuracy == pytest.approx(right / episode.queries.size)
    facts = episode_facts(SMALL, Toy(), NegativeEuclidean(), gallery, IDS)
    assert facts["accuracy"] == pytest.approx(found.mean())
    assert facts["interval"] == pytest.approx(1.96 * found.std() / 20**0.5)


def test_separated_classes_are_always_right() -> None:
    gallery = torch.eye(6).repeat_interleave(EACH, dim=0)
    assert (SMALL.accuracies(Toy(), Cosine(), gallery, IDS) == 1).all()


def test_own_and_predicted_class() -> None:
    gallery = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    pairs = replace(SMALL, kinds=("own_class", "predicted_class"), rivals=True)(Toy(), Cosine(), gallery, IDS)
    own, wrong = (pairs[pairs["kind"] == kind] for kind in ("own_class", "predicted_class"))
    assert len(own) == 10
    assert (own["query_label"] == own["reference_label"]).all()
    assert (wrong["query_label"] != wrong["reference_label"]).all()
    assert (wrong["reference_label"] == wrong["predicted_label"]).all()
    for row in pairs.itertuples():
        assert row.query_id not in row.support_ids
        assert {int(Toy().index["label"][i]) for i in row.support_ids} == {row.reference_label}
        prototype = gallery[[IDS.index(i) for i in row.support_ids]].mean(dim=0)
        expected = Cosine()(gallery[[IDS.index(row.query_id)]], prototype[None])
        assert row.score == pytest.approx(float(expected), rel=1e-5)
        assert len(row.rival_ids) == 2
        assert row.negative_support_ids in row.rival_ids
    assert len({*own["query_label"]}) > 3


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(size=32, train_per_class=0, test_per_class=4)


def test_the_evidence_shared_with_a_prototype_is_known(planted: Planted) -> None:
    episodes = Episodes(ways=8, shots=2, queries=1, count=12, explained=12, kinds=("own_class", "partial_class"))
    ids = list(planted.index.index)
    pairs = episodes(planted, Cosine(), torch.randn(len(ids), 4), ids)
    for frame in cut_batches(pairs, 4):
        batch = load_batch(planted, frame)
        partial = frame["kind"].iloc[0] == "partial_class"
        assert batch.has("shared")
        assert batch.has("unshared") == partial
        for k, row in enumerate(frame.itertuples()):
            states = planted.index.loc[[row.query_id, row.support_ids[0]], list(planted.evidence)]
            query, reference = states.iloc[0], states.iloc[1]
            assert (query == reference).sum() == (1 if partial else 2)
            shared = [f"part/{part}" for part in planted.evidence if query[part] == reference[part]]
            masks = planted.sample(row.query_id).masks
            assert torch.equal(batch.masks["shared"][k], torch.stack([masks[name] for name in shared]).any(dim=0))


def test_supports_share_one_part_alone_with_the_query(planted: Planted) -> None:
    episodes = Episodes(ways=4, shots=3, queries=1, count=12, explained=12, kinds=("shared_part",))
    ids = list(planted.index.index)
    gallery = torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(0))
    pairs = episodes(planted, Cosine(), gallery, ids)
    assert len(pairs) == 12
    states = planted.index[list(planted.evidence)]
    for number, row in enumerate(pairs.itertuples()):
        alike = states.loc[row.support_ids] == states.loc[row.query_id]
        part = planted.evidence[number % 2]
        assert alike[part].all()
        assert alike.to_numpy().sum() == 3  # that part alone
        assert states.loc[row.support_ids].drop(columns=part).nunique().item() == 3  # of 3 other states in this half
        assert row.reference_class == f"{part} {states.loc[row.query_id, part]}"
        prototype = gallery[[ids.index(i) for i in row.support_ids]].mean(dim=0)
        assert row.score == pytest.approx(
            float(Cosine()(gallery[[ids.index(row.query_id)]], prototype[None])), rel=1e-5
        )
    batch = load_batch(planted, pairs[:4])
    assert batch.redraws is planted
    assert {"shared", "unshared"} <= {*batch.masks}
    assert not (batch.masks["shared"] & batch.masks["unshared"]).any()


CLASSIFIER = ClassWeights(epochs=3)


@pytest.mark.parametrize("similarity", [Cosine(), Dot(), NegativeEuclidean()])
def test_class_weights_are_those_of_a_written_out_descent(similarity: Cosine) -> None:
    """All supports in one batch, so that their order does not count; the other episode changes nothing."""
    supports = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    fit = replace(CLASSIFIER, batch_size=6, lr=0.1)
    found = fit.fit(similarity, supports, [(0, 1), (0, 2)])[1]
    start = replace(fit, lr=1e-300).fit(similarity, supports[1:], [(0, 2)])[0]
    examples, classes = supports[1].flatten(0, 1), torch.arange(3).repeat_interleave(2)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        scores = torch.stack([similarity(examples, row.expand(6, -1)) for row in weights], dim=1)
        return torch.nn.functional.cross_entropy(2 * scores, classes)

    weights, step = start, torch.zeros_like(start)
    for epoch in range(3):
        slope = torch.func.grad(loss)(weights) + 0.001 * weights
        step = slope if epoch == 0 else 0.9 * step + 0.1 * slope
        weights = weights - 0.1 * step
    torch.testing.assert_close(found, weights, rtol=1e-9, atol=1e-12)
    assert (found - start).abs().max() > 1e-3


def test_separated_classes_are_fitted() -> None:
    gallery = torch.eye(6).repeat_interleave(EACH, dim=0)
    with torch.inference_mode():
        assert (replace(SMALL, classifier=ClassWeights()).accuracies(Toy(), Cosine(), gallery.clone(), IDS) == 1).all()


@pytest.mark.slow
def test_class_weights_are_explained_as_they_were_measured(planted: Planted) -> None:
    torch.manual_seed(0)
    model = build("net", planted_net(), GAP(), Cosine(), normalise=True, image_size=32)
    ids = list(planted.index.index)
    gallery = torch.cat([model.encode(planted.sample(i).image[None]).embeddings for i in ids])
    kinds = ("own_class", "shared_part")
    episodes = Episodes(4, 2, 1, count=4, explained=4, rivals=True, kinds=kinds, classifier=CLASSIFIER)
    pairs = episodes(planted, model.similarity, gallery, ids)
    for frame in cut_batches(pd.DataFrame(pairs.to_dict("list")), 4):
        batch = load_batch(planted, frame)
        assert isinstance(batch.reference, Vectors)
        assert "shared" in batch.masks
        assert batch.redraws is planted
        one = encode_batch(model, Similarity(), batch)
        measured = score(model.similarity, one.query.embeddings, one.terms).double()
        torch.testing.assert_close(measured, torch.tensor(frame["score"].to_numpy()), rtol=1e-4, atol=1e-6)
        maps = SimilarityDecomposition()(model, one, batch)
        torch.testing.assert_close(maps.double().sum(dim=(1, 2)), measured, rtol=1e-4, atol=1e-6)
        softmax = encode_batch(model, ClassScore(temperature=0.5), batch)
        for k, row in enumerate(frame.itertuples()):
            vectors = torch.tensor([row.reference_vector, *row.rival_vectors])
            scores = model.similarity.matrix(gallery[[ids.index(row.query_id)]], vectors)[0]
            value = score(model.similarity, softmax.query.embeddings, softmax.terms)[k]
            torch.testing.assert_close(value, (2 * scores).softmax(dim=0)[0], rtol=1e-4, atol=1e-6)


def test_a_classifier_has_no_prototype() -> None:
    with pytest.raises(UserError, match=r"episodes.classifier replaces prototypes: leave episodes.prototype"):
        Episodes(classifier=CLASSIFIER, prototype=Prototype("medoid"))


@pytest.mark.slow
def test_a_batch_of_an_episode_is_scored_as_it_was_chosen(planted: Planted) -> None:
    torch.manual_seed(0)
    model = build("net", planted_net(), GAP(), NegativeEuclidean(), normalise=False, image_size=32)
    ids = list(planted.index.index)
    gallery = torch.cat([model.encode(planted.sample(i).image[None]).embeddings for i in ids])
    episodes = Episodes(ways=3, shots=2, queries=1, count=4, explained=4, rivals=True)
    pairs = episodes(planted, model.similarity, gallery, ids)
    stored = pd.DataFrame(pairs.to_dict("list"))  # as read from a file
    batch = load_batch(planted, stored)
    assert isinstance(batch.reference, Supports)
    assert len(batch.rivals) == 2
    one = encode_batch(model, Similarity(), batch)
    torch.testing.assert_close(
        score(model.similarity, one.query.embeddings, one.terms).double(),
        torch.tensor(pairs["score"].to_numpy()),
        rtol=1e-4,
        atol=1e-6,
    )
    margin = encode_batch(model, Margin(), batch)
    softmax = encode_batch(model, ClassScore(), batch)
    for k, episode in enumerate(episodes.draw(planted, ids)):
        embedded = gallery[episode.queries.flatten()], gallery[episode.supports]
        scores = score_classes(model.similarity, Prototype(), *embedded)
        way = k % 3
        value = score(model.similarity, softmax.query.embeddings, softmax.terms)[k]
        torch.testing.assert_close(value, scores[way].softmax(dim=0)[way], rtol=1e-4, atol=1e-6)
        others = scores[way].clone()
        others[way] = -torch.inf
        best = score(model.similarity, margin.query.embeddings, margin.terms)[k]
        torch.testing.assert_close(best, scores[way, way] - others.max(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ways": 7}, r"toy has 6 classes here with 2 supports and 1 queries .* episodes.ways=7: lower"),
        ({"shots": 4}, "toy has 0 classes here with 4 supports"),
        ({"kinds": ("partial_class",)}, None),
    ],
)
def test_too_few_images_or_classes(changed: dict[str, object], says: str | None) -> None:
    episodes = replace(SMALL, **changed)  # type: ignore[arg-type]
    if says is None:
        episodes.check(Toy(), IDS)  # it has evidence
        return
    with pytest.raises(UserError, match=says):
        episodes.check(Toy(), IDS)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"kinds": ("other",)}, "kinds are own_class"), ({"ways": 1}, "leaves nothing"), ({"shots": 0}, "shots is 0")],
)
def test_fields_that_make_no_sense(fields: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Episodes(**fields)  # type: ignore[arg-type]


def test_classes_with_too_few_images_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    SMALL.check(Toy(), IDS[2:])
    assert "toy: 1 classes without 2 supports and 1 queries are left out" in caplog.text


def test_unit_scale_does_not_change_cosine() -> None:
    random = torch.Generator().manual_seed(0)
    queries, supports = torch.randn(4, 5, generator=random), torch.randn(3, 2, 5, generator=random)
    plain = score_classes(Cosine(), Prototype(), queries, supports)
    torch.testing.assert_close(score_classes(Cosine(), Prototype(), unit(queries), supports), plain)
