"""Losses on episodes by hand, and the episodes themselves: a function of seed and step."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, NegativeEuclidean
from sfam_bench.training.data import Order
from sfam_bench.training.few_shot import (
    CosineClassifier,
    LinearClassifier,
    MatchingLoss,
    PrototypeLoss,
    check_episodes,
    split_supports,
)
from sfam_bench.training.loop import train
from sfam_bench.training.recipe import Recipe
from tests.training.toy import EXAMPLES, model

EPISODES = Recipe(epochs=3, episodes=4, batch_size=6, per_class=3, lr=1e-2)


def episode(ways: int = 3, each: int = 4) -> tuple[Tensor, Tensor]:
    embeddings = torch.randn(ways * each, 5, generator=torch.Generator().manual_seed(0)).double()
    return embeddings, torch.arange(ways).repeat_interleave(each) * 7


def test_supports_are_the_first_of_each_class_in_any_order() -> None:
    support, query, answers = split_supports(torch.tensor([9, 4, 9, 4, 4, 9]), 2)
    assert support.tolist() == [[1, 3], [0, 2]]
    assert query.tolist() == [4, 5]
    assert answers.tolist() == [0, 1]


def test_protonet_by_loops() -> None:
    embeddings, classes = episode()
    found = PrototypeLoss(2, NegativeEuclidean())(embeddings, classes)
    prototypes = [embeddings[4 * k : 4 * k + 2].mean(dim=0) for k in range(3)]
    losses = []
    for k in range(3):
        for query in embeddings[4 * k + 2 : 4 * k + 4]:
            scores = [-float((query - prototype).square().sum()) for prototype in prototypes]
            losses.append(-math.log(math.exp(scores[k]) / sum(map(math.exp, scores))))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)


def test_matching_by_loops_and_equal_to_cosine_prototypes_with_one_shot() -> None:
    embeddings, classes = episode()
    found = MatchingLoss(2, scale=3.0)(embeddings, classes)
    losses = []
    for k in range(3):
        for query in embeddings[4 * k + 2 : 4 * k + 4]:
            weights = [
                [math.exp(3 * float(F.cosine_similarity(query, embeddings[4 * j + at], dim=0))) for at in range(2)]
                for j in range(3)
            ]
            losses.append(-math.log(sum(weights[k]) / sum(map(sum, weights))))
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-6)
    prototypes = PrototypeLoss(1, Cosine(), scale=3.0).double()
    torch.testing.assert_close(MatchingLoss(1, scale=3.0)(embeddings, classes), prototypes(embeddings, classes))


def test_the_scale_of_meta_baseline_is_learnt_and_that_of_protonet_is_not() -> None:
    assert PrototypeLoss(1, Cosine(), 10.0, learn_scale=True).scale.requires_grad
    assert not PrototypeLoss(1, NegativeEuclidean()).scale.requires_grad


def test_the_cosine_classifier_ignores_lengths_and_the_linear_one_does_not() -> None:
    embeddings, classes = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    cosine, linear = CosineClassifier(3, 5), LinearClassifier(3, 5)
    torch.testing.assert_close(cosine(3 * embeddings, classes), cosine(embeddings, classes))
    assert not torch.isclose(linear(3 * embeddings, classes), linear(embeddings, classes))
    logits = 2 * F.normalize(embeddings) @ cosine.weights.T  # at first the norms are those of the weights
    torch.testing.assert_close(cosine(embeddings, classes), F.cross_entropy(logits, classes))


def batches(recipe: Recipe, step: int = 0, **share: int) -> list[list[tuple[int, int]]]:
    order = Order(EXAMPLES.number_classes(recipe), recipe, **share)
    order.step = step
    return list(order)


def test_an_episode_has_its_classes_one_after_the_other_and_no_image_twice() -> None:
    numbers = EXAMPLES.number_classes(EPISODES)
    for batch in batches(EPISODES):
        places = [place for place, _ in batch]
        classes = [numbers[place] for place in places]
        assert set(Counter(classes).values()) == {3}
        assert len(set(classes)) == 2
        assert classes[:3] == [classes[0]] * 3
        assert len(set(places)) == 6


def test_an_episode_depends_on_seed_and_step_alone() -> None:
    every = [batch for epoch in range(3) for batch in batches(EPISODES, 4 * epoch)]
    assert batches(EPISODES, 6) == every[6:8]
    assert batches(replace(EPISODES, seed=1)) != every[:4]
    assert len({str(batch) for batch in every}) > 8
    shares = [batches(EPISODES, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == every[:4]


def test_training_on_episodes_learns_and_is_continued_exactly(tmp_path: Path) -> None:
    def run(recipe: Recipe, folder: Path | None = None) -> tuple[dict[str, Tensor], list[float]]:
        network, loss = model(), PrototypeLoss(1, Cosine(), 10.0, learn_scale=True)
        history = train(network, loss, None, EXAMPLES, recipe, run=folder, identity={})
        return {**network.state_dict(), **loss.state_dict()}, history["loss"].tolist()

    recipe = replace(EPISODES, epochs=12, schedule="constant", checkpoint_steps=4)
    whole, losses = run(recipe)
    assert losses[-1] < losses[0]
    run(replace(recipe, epochs=5), tmp_path)
    continued, _ = run(recipe, tmp_path)
    assert all(torch.equal(value, whole[name]) for name, value in continued.items())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"per_class": 0}, "train.episodes needs train.per_class"),
        ({"per_class": 6, "batch_size": 12}, "train.per_class=6 different images of a class .* has 5"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(changed: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        EXAMPLES.number_classes(replace(EPISODES, **changed))


def test_a_loss_of_episodes_needs_them_and_queries() -> None:
    with pytest.raises(UserError, match=r"choose recipe=episodes, or set train.episodes"):
        check_episodes(MatchingLoss(1), replace(EPISODES, episodes=0))
    with pytest.raises(UserError, match=r"train.per_class=3 leaves no query beside loss.criterion.shots=3"):
        check_episodes(MatchingLoss(3), EPISODES)
    check_episodes(LinearClassifier(2, 3), replace(EPISODES, episodes=0))
