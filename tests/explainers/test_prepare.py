"""Explainers that need training images: what they keep against naive loops, what is refused, and the cache."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import PairBatch, Reference, Sample, Side, Term
from sfam_bench.core.similarity import Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity, swap_sides
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.embedding_cam import EmbeddingCAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.shared.prepare import Bank, Preparable, Preparation, Prepared
from sfam_bench.explainers.weight_transfer import WeightTransfer, draw_triplets
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import HEADS, POOLINGS, SIMILARITIES

METHODS = [EmbeddingCAM(), WeightTransfer()]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
any_model = given(
    seed=st.integers(0, 10_000),
    pooling=st.sampled_from(POOLINGS),
    head=st.sampled_from(sorted(HEADS)),
    similarity=st.sampled_from(SIMILARITIES),
    normalise=st.booleans(),
)
few = settings(max_examples=15, deadline=None)


def build(seed=0, pooling=GAP, head="linear", similarity=SIMILARITIES[0], normalise=True):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Softplus())
    return SimilarityModel(trunk, Embedder(pooling(), HEADS[head](4), None, normalise), similarity).double().eval()


def images(count, seed=1):
    return torch.rand(count, 3, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def bank_of(model, labels=(3, 3, 8, 8, 8, 1), batch_size=4):
    return Bank.of(model, images(len(labels)), torch.tensor(labels), batch_size)


def encoded(model, target=None, count=3):
    others = [images(count, seed) for seed in (2, 3, 4)]
    return encode_pairs(model, target or Similarity(), *others[: 3 if isinstance(target, Margin) else 2])


def pairs(count=3):
    return PairBatch(tuple("abc"[:count]), tuple("xyz"[:count]), images(count, 2), images(count, 3))


def explain(ready, model, seen):
    return ready(model, seen, pairs(len(seen.query.images)))


def against(model, seen, references):
    """The same queries compared with other embeddings."""
    side = seen.terms[0].side
    return replace(seen, terms=(Term(1.0, Reference.of(Side(side.images, side.activations, references))),))


# Banks


def test_a_bank_in_memory_embeds_in_batches_and_gives_its_images_back():
    model = build()
    bank = bank_of(model)
    torch.testing.assert_close(bank.embeddings, model.encode(images(6)).embeddings, **CLOSE)
    found = list(bank.batches([5, 0, 1, 2, 3]))
    assert [positions for positions, _ in found] == [[5, 0, 1, 2], [3]]
    assert torch.equal(torch.cat([batch for _, batch in found]), images(6)[[5, 0, 1, 2, 3]])


class Made:
    """A data set of six images, p to u."""

    name = split_name = "made"
    index = pd.DataFrame({"label": [3, 3, 8, 8, 8, 1]}, index=list("pqrstu"))

    def image(self, image_id):
        raise NotImplementedError

    def sample(self, image_id):
        return Sample(images(6)[list(self.index.index).index(image_id)])

    def regions(self, query_id, reference_id, sample):
        return {}


def test_a_bank_of_a_data_set_is_that_of_its_images():
    model = build()
    bank = Bank.of_dataset(model, Made(), ["t", "p", "u"], batch_size=2)
    assert bank.labels.tolist() == [8, 3, 1]
    assert bank.image_ids == ("t", "p", "u")
    torch.testing.assert_close(bank.embeddings, bank_of(model).embeddings[[4, 0, 5]], **CLOSE)
    assert torch.equal(torch.cat([batch for _, batch in bank.batches([2, 1])]), images(6)[[5, 0]])


@pytest.mark.parametrize(("count", "ids"), [(3, 2), (2, 3), (0, 0)])
def test_a_bank_has_an_id_for_every_image_and_at_least_one(count, ids):
    with pytest.raises(UserError, match="one of each"):
        Bank(torch.zeros(count, 4), torch.zeros(count, dtype=torch.long), tuple("abc"[:ids]), lambda _: images(1))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_an_unprepared_call_says_what_to_do(method):
    assert isinstance(method, Preparable)
    assert not isinstance(LaFAM(), Preparable)
    with pytest.raises(UserError, match=r"needs training images: evaluate prepares .* method.prepare\(model, bank\)"):
        explain(method, build(), encoded(build()))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_state_that_does_not_fit_is_refused(method):
    model = build()
    state = method.compute_state(model, bank_of(model))
    name = next(iter(state))
    wrong = [{}, {**state, "more": state[name]}, {**state, name: state[name][0]}, {**state, name: state[name][None]}]
    for kept in wrong:
        with pytest.raises(UserError, match="prepare it with this model"):
            Prepared(method, kept)
    other = build(head="none")  # 4 dimensions, not 5
    with pytest.raises(UserError, match="'dims': 4"):
        explain(Prepared(method, state), other, encoded(other))


# EmbeddingCAM


def test_class_means_by_hand():
    model = build()
    embeddings = model.encode(images(6)).embeddings
    means = EmbeddingCAM().compute_state(model, bank_of(model))["means"]
    expected = [embeddings[5], (embeddings[0] + embeddings[1]) / 2, embeddings[2:5].mean(dim=0)]  # labels 1, 3, 8
    torch.testing.assert_close(means, torch.stack(expected), **CLOSE)


@few
@any_model
def test_embedding_cam_is_grad_cam_on_the_dot_product_with_the_class_mean(**parts):
    model = build(**parts)
    ready = EmbeddingCAM(relu=False).prepare(model, bank_of(model))
    seen, means = encoded(model), ready.state["means"]
    nearest = [
        max(range(len(means)), key=lambda row: model.similarity(reference[None], means[row][None]).item())
        for reference in seen.terms[0].side.embeddings
    ]
    proxies = nn.functional.normalize(means, dim=1)[nearest]
    plain = SimilarityModel(
        model.trunk, Embedder(model.embedder.pooling, model.embedder.projection, None, False), Dot()
    ).eval()
    expected = GradCAM(relu=False)(plain, against(plain, encoded(plain), proxies), pairs())
    torch.testing.assert_close(explain(ready, model, seen), expected, **CLOSE)


def test_embedding_cam_of_a_classifier_is_grad_cam_on_the_logit():
    model = build(similarity=Dot(), normalise=False)
    seen = encoded(model)
    classes = seen.terms[0].side.embeddings.argmax(dim=1)
    ready = Prepared(EmbeddingCAM(relu=False), {"means": torch.eye(5, dtype=torch.float64)})
    activations = seen.query.activations.clone().requires_grad_()
    logits = model.embedder(activations)[torch.arange(3), classes]
    (gradient,) = torch.autograd.grad(logits.sum(), activations)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1).detach()
    torch.testing.assert_close(explain(ready, model, seen), expected, **CLOSE)
    rectified = Prepared(EmbeddingCAM(), ready.state)
    torch.testing.assert_close(explain(rectified, model, seen), expected.relu(), **CLOSE)


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.name)
def test_embedding_cam_of_a_margin_is_the_difference_of_the_forms(similarity):
    model = build(similarity=similarity)
    means = nn.functional.normalize(bank_of(model).embeddings[:3], dim=1)
    ready = Prepared(EmbeddingCAM(relu=False), {"means": means})
    seen = encoded(model, Margin())
    # references and negatives that are class means themselves, of different classes
    positive, negative = (against(model, seen, means[[first] * 3]) for first in (0, 1))
    margin = replace(seen, terms=(positive.terms[0], Term(-1.0, negative.terms[0].side)))
    expected = explain(ready, model, positive) - explain(ready, model, negative)
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(explain(ready, model, margin), expected, **CLOSE)


def test_embedding_cam_nearest_to_the_query_ignores_reference_and_target():
    model = build()
    ready = EmbeddingCAM(proxies="nearest_to_query").prepare(model, bank_of(model))
    expected = explain(ready, model, encoded(model))
    seen = encoded(model)
    assert torch.equal(explain(ready, model, against(model, seen, seen.query.embeddings.flip(0))), expected)
    assert torch.equal(explain(ready, model, encoded(model, Margin())), expected)
    nearest = model.similarity.matrix(seen.query.embeddings, ready.state["means"]).argmax(dim=1)
    own = against(model, seen, ready.state["means"][nearest])
    torch.testing.assert_close(explain(Prepared(EmbeddingCAM(), ready.state), model, own), expected, **CLOSE)


# Weight transfer


def losing_triplets(distances, labels, anchor, margin):
    return {
        (p, n)
        for p in range(len(labels))
        for n in range(len(labels))
        if p != anchor and labels[p] == labels[anchor] != labels[n] and distances[p] - distances[n] + margin > 0
    }


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    margin=st.sampled_from([0.0, 0.2, 5.0]),
    count=st.integers(1, 30),
)
def test_triplets_are_drawn_from_those_with_a_loss(labels, seed, margin, count):
    random = np.random.default_rng(seed)
    distances, anchor = random.choice(5, len(labels)) / 4, seed % len(labels)  # with ties
    found = list(
        zip(*map(list, draw_triplets(distances, np.array(labels), anchor, margin, count, random)), strict=True)
    )
    every = losing_triplets(distances, labels, anchor, margin)
    assert len(found) == len({*found}) == min(count, len(every))
    assert {*found} <= every


def test_each_triplet_is_drawn_as_often():
    distances, labels, counts = np.array([0, 0.5, 0.7, 0.3, 0.6, 0.9]), np.array([1, 1, 1, 2, 2, 3]), {}
    for seed in range(3000):
        for triplet in zip(*draw_triplets(distances, labels, 0, 0.2, 2, np.random.default_rng(seed)), strict=True):
            counts[triplet] = counts.get(triplet, 0) + 1
    assert counts.keys() == {(1, 3), (1, 4), (2, 3), (2, 4)}  # 0.7 + 0.2 is not more than 0.9
    assert all(1380 < count < 1620 for count in counts.values())  # 1500, five standard deviations of 27


def naive_weights(model, labels, anchor, margin):
    """Minus the mean over positions and triplets of dL/dA, one backward pass a triplet."""
    every = model.encode(images(len(labels)))
    total, count = 0, 0
    for p in range(len(labels)):
        for n in range(len(labels)):
            if p == anchor or labels[p] != labels[anchor] or labels[n] == labels[anchor]:
                continue
            activations = every.activations[anchor : anchor + 1].clone().requires_grad_()
            e = model.embedder(activations)[0]
            loss = (e - every.embeddings[p]).square().sum() - (e - every.embeddings[n]).square().sum() + margin
            if loss > 0:
                (gradient,) = torch.autograd.grad(loss, activations)
                total, count = total - gradient.mean(dim=(2, 3))[0], count + 1
    return total / count if count else None


@few
@any_model
def test_kept_weights_are_those_of_a_naive_loop(**parts):
    model, labels = build(**parts), (3, 3, 8, 8, 8, 1)
    state = WeightTransfer(triplets=1000).compute_state(model, bank_of(model, labels))
    expected = [naive_weights(model, labels, anchor, 0.2) for anchor in range(6)]
    assert state["left_out"].tolist() == [anchor for anchor in range(6) if expected[anchor] is None]
    assert 5 in state["left_out"]  # alone in its class
    torch.testing.assert_close(state["weights"], torch.stack([w for w in expected if w is not None]), **CLOSE)


@few
@any_model
def test_one_triplet_is_grad_cam_on_the_margin_of_negative_squared_distances(**parts):
    model, labels = build(**parts), (0, 0, 1)
    ready = WeightTransfer(margin=1e6, relu=False).prepare(model, bank_of(model, labels))
    other = SimilarityModel(model.trunk, model.embedder, NegativeEuclidean())
    first, second, third = images(3).split(1)
    seen = encode_pairs(other, Margin(), first, second, third)
    near = encode_pairs(SimilarityModel(model.trunk, model.embedder, NegativeEuclidean()), Similarity(), first, second)
    expected = GradCAM(relu=False)(other, seen, pairs(1))
    torch.testing.assert_close(explain(ready, other, near), expected, **CLOSE)


def sampled(model, labels, ids, **fields):
    bank = replace(bank_of(model, labels), image_ids=ids)
    bank = replace(bank, load=lambda some: images(len(labels))[[ids.index(one) for one in some]])
    return WeightTransfer(triplets=2, margin=9.0, **fields).compute_state(model, bank)["weights"]


def test_the_sample_hangs_on_seed_and_id_alone():
    model, labels, ids = build(), (0, 0, 0, 1, 1, 1, 2, 2), tuple("abcdefgh")
    weights = sampled(model, labels, ids)
    assert torch.equal(sampled(model, labels, ids), weights)
    assert not torch.allclose(sampled(model, labels, ids, seed=1), weights)
    renamed = sampled(model, labels, ("z", *ids[1:]))
    assert not torch.allclose(renamed[0], weights[0])
    torch.testing.assert_close(renamed[1:], weights[1:], **CLOSE)


def by_hand(embeddings, weights, **fields):
    """A model whose embeddings are its pooled activations, and a state made of lists."""
    model = build(head="none", normalise=False, similarity=NegativeEuclidean())
    state = {"embeddings": embeddings, "weights": weights, "left_out": []}
    made = Prepared(
        WeightTransfer(relu=False, **fields),
        {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()},
    )
    activations = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    activations[0, :, 0, 0] = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    side = Side(images(1), activations, model.embedder(activations))
    return explain(made, model, replace(encoded(model, count=1), query=side)).item()


def test_the_query_takes_the_weights_of_its_neighbours_by_hand():
    far, near, middle = [0.0] * 4, [1.0, 10.0, 100.0, 990.0], [1.0, 10.0, 100.0, 900.0]
    weights = [[7.0] * 4, [1.0, 2.0, -3.0, 0.5], [3.0, 0.0, 1.0, 0.5]]
    cases = [{}, {"neighbours": 2}, {"channels": 2}, {"channels": 1, "neighbours": 2}, {"neighbours": 9}]
    found = [by_hand([far, near, middle], weights, **fields) for fields in cases]
    assert found == pytest.approx(
        [1 + 20 - 300 + 500, 2 + 10 - 100 + 500, 1 + 20, 2, (11 * 1 + 9 * 10 + 5 * 100 + 8 * 1000) / 3]
    )


def test_images_without_a_loss_lend_nothing():
    model, labels = build(), (3, 3, 8, 8, 8, 1)
    ready = WeightTransfer(relu=False).prepare(model, bank_of(model, labels))
    alone = encode_pairs(model, Similarity(), images(6)[5:], images(6)[:1])
    scores = model.similarity.matrix(alone.query.embeddings, bank_of(model).embeddings)[0]
    scores[ready.state["left_out"]] = -torch.inf
    lender = int(scores.argmax())
    weights = naive_weights(model, labels, lender, 0.2)
    expected = torch.einsum("k,bkij->bij", weights, alone.query.activations)
    torch.testing.assert_close(explain(ready, model, alone), expected, **CLOSE)
    assert ready.facts == {
        **{"embeddings": 6 - len(ready.state["left_out"]), "weights": 6 - len(ready.state["left_out"])},
        "left_out": len(ready.state["left_out"]),
    }


@pytest.mark.parametrize("labels", [(0, 0, 0), (0, 1, 2), (0,)], ids=["one_class", "no_positives", "one_image"])
def test_training_images_without_any_triplet_are_an_error(labels):
    model = build()
    with pytest.raises(UserError, match=r"no triplet of the \d training images has a loss at margin"):
        WeightTransfer().prepare(model, bank_of(model, labels))


def test_weight_transfer_ignores_reference_and_target():
    model = build()
    ready = WeightTransfer().prepare(model, bank_of(model))
    seen = encoded(model)
    expected = explain(ready, model, seen)
    assert torch.equal(explain(ready, model, against(model, seen, seen.query.embeddings)), expected)
    assert torch.equal(explain(ready, model, encoded(model, Margin())), expected)
    assert (expected >= 0).all()
    signed = Prepared(WeightTransfer(relu=False), ready.state)
    assert torch.equal(explain(signed, model, seen).relu(), expected)


@pytest.mark.parametrize("field", ["triplets", "neighbours", "channels"])
def test_numbers_out_of_range(field):
    with pytest.raises(UserError, match=rf"WeightTransfer\.{field} is 0: expected a number of at least 1"):
        WeightTransfer(**{field: 0})
    with pytest.raises(UserError, match=r"margin is -0\.1: expected a number of at least 0"):
        WeightTransfer(margin=-0.1)


# Both


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_map_of_the_reference_is_that_of_the_swapped_pair(method):
    model = build()
    ready, seen = method.prepare(model, bank_of(model)), encoded(model)
    there = encode_pairs(model, Similarity(), images(3, 3), images(3, 2))
    torch.testing.assert_close(explain(ready, model, swap_sides(seen)), explain(ready, model, there), **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_preparing_hangs_on_neither_batch_nor_mode(method):
    model = build()
    expected = method.prepare(model, bank_of(model)).state
    for batch_size in (1, 5, 100):
        state = method.prepare(model, bank_of(model, batch_size=batch_size)).state
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, **CLOSE)
    model.train()
    model.requires_grad_(False)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            ready = method.prepare(model, bank_of(model))
            maps = explain(ready, model, encoded(model))
        assert all(torch.equal(ready.state[name], value) for name, value in expected.items())
        torch.testing.assert_close(maps, explain(Prepared(method, expected), model, encoded(model)), **CLOSE)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# The cache


@dataclass
class Counted:
    """A bank on demand that counts how often it was asked for."""

    model: SimilarityModel
    calls: int = 0

    def __call__(self):
        self.calls += 1
        return bank_of(self.model)


def prepare_all(cache, model, methods=METHODS, **source):
    counted, named = Counted(model), {type(method).__name__: method for method in methods}
    ready = Preparation(cache=cache)(model, {**named, "lafam": LaFAM()}, counted, source)
    assert list(ready) == [*named, "lafam"]
    assert all(isinstance(ready[name], Prepared) for name in named)
    return ready, counted.calls


def states(ready):
    return {name: made.state for name, made in ready.items() if isinstance(made, Prepared)}


def same(ours, theirs):
    return all(torch.equal(value, theirs[name][key]) for name, state in ours.items() for key, value in state.items())


def test_what_was_prepared_is_remembered(tmp_path):
    model, cache = build(), str(tmp_path / "new" / "cache")
    first, calls = prepare_all(cache, model)
    assert calls == 1  # one bank for all
    again, calls = prepare_all(cache, model)
    assert calls == 0
    assert same(states(first), states(again))
    assert torch.equal(*(explain(ready["WeightTransfer"], model, encoded(model)) for ready in (first, again)))
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 2
    assert prepare_all(cache, model, [WeightTransfer(triplets=3)])[1] == 1
    assert prepare_all(cache, model, weights="others")[1] == 1
    assert prepare_all(None, model)[1] == 1


def test_another_version_forgets(tmp_path, monkeypatch):
    model = build()
    prepare_all(str(tmp_path), model)
    monkeypatch.setattr("sfam_bench.explainers.shared.prepare.VERSION", 0)
    assert prepare_all(str(tmp_path), model)[1] == 1


def damage(path: Path, how: str) -> None:
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("nonsense")
        case "flipped":
            whole = bytearray(path.read_bytes())
            whole[-3] ^= 16
            path.write_bytes(whole)
        case "shapes":
            state = load_file(path)
            save_file({name: value[:1].clone() for name, value in state.items()}, path)
        case "keys":
            save_file({"other": torch.zeros(2, 2)}, path)
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "flipped", "shapes", "keys", "folder"])
def test_a_damaged_file_is_computed_again(tmp_path, how):
    model = build()
    first, _ = prepare_all(str(tmp_path), model)
    for path in tmp_path.iterdir():
        damage(path, how)
    again, calls = prepare_all(str(tmp_path), model)
    assert calls == 1
    assert same(states(first), states(again))
    assert not list(tmp_path.glob(".*.tmp"))
    assert prepare_all(str(tmp_path), model)[1] == (how == "folder")  # which no file can replace


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("mine")
    ready, calls = prepare_all(str(tmp_path / "file" / "cache"), build())
    assert calls == 1
    assert explain(ready["EmbeddingCAM"], build(), encoded(build())).isfinite().all()
    assert (tmp_path / "file").read_text() == "mine"
