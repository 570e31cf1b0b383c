"""The training loop on images so plain that a linear map tells their classes apart."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.retrieval.recall import retrieval
from sfam_bench.training.data import Examples
from sfam_bench.training.loop import set_train_mode, train
from sfam_bench.training.recipe import Recipe
from tests.training.toy import EXAMPLES, IDS, LABELS, RECIPE, model, picture, softmax


def level(image_id: str) -> Tensor:
    """The number of an image as its grey level."""
    return torch.full((3, 2, 2), float(image_id))


def recall(of: SimilarityModel) -> float:
    embeddings = of.encode(torch.stack([picture(image_id) for image_id in IDS])).embeddings
    return retrieval(of.similarity, embeddings, torch.tensor(LABELS))["recall_at_1"]


def trained(recipe: Recipe = RECIPE) -> SimilarityModel:
    of = model()
    train(of, softmax(), None, EXAMPLES, recipe)
    return of


def test_training_lowers_the_loss_and_learns_the_classes() -> None:
    of = model()
    before = recall(of)
    history = train(of, softmax(), None, EXAMPLES, replace(RECIPE, epochs=15))
    assert history["epoch"].tolist() == list(range(1, 16))
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert history["images_per_second"].gt(0).all()
    assert recall(of) >= 0.9 > before
    assert not any(module.training for module in of.modules())


def test_triplets_with_a_miner_train_too() -> None:
    of, before = model(), model().state_dict()
    history = train(of, TripletMarginLoss(), TripletMarginMiner(), EXAMPLES, RECIPE)
    assert np.isfinite(history["loss"]).all()
    assert any(not torch.equal(value, before[key]) for key, value in of.state_dict().items())


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    ours = trained().state_dict()
    torch.rand(17)
    np.random.default_rng().random(3)
    assert all(torch.equal(value, ours[key]) for key, value in trained().state_dict().items())
    other = trained(replace(RECIPE, seed=1)).state_dict()
    assert any(not torch.equal(value, ours[key]) for key, value in other.items())


def test_worker_processes_change_nothing() -> None:
    ours = trained(replace(RECIPE, epochs=1)).state_dict()
    theirs = trained(replace(RECIPE, epochs=1, workers=1)).state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("freeze", [False, True])
def test_frozen_batch_norm_keeps_its_statistics(freeze: bool) -> None:
    statistics = trained(replace(RECIPE, freeze_batchnorm=freeze)).trunk[1].running_mean
    assert torch.equal(statistics, torch.zeros(8)) == freeze


def test_frozen_weights_stay() -> None:
    of = model()
    of.trunk[0].requires_grad_(False)
    kept = of.trunk[0].weight.clone()
    train(of, softmax(), None, EXAMPLES, RECIPE)
    assert torch.equal(of.trunk[0].weight, kept)


def test_the_proxies_of_the_loss_learn_at_their_own_rate() -> None:
    criterion = softmax()
    before = criterion.W.detach().clone()
    train(model(), criterion, None, EXAMPLES, replace(RECIPE, loss_lr=0.0, weight_decay=0.0))
    assert torch.equal(criterion.W, before)
    train(model(), criterion, None, EXAMPLES, RECIPE)
    assert not torch.equal(criterion.W, before)


def test_every_image_of_a_batch_comes_with_its_class() -> None:
    seen: list[tuple[int, float]] = []

    class Spy(nn.Module):
        def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
            seen.extend(zip(targets.tolist(), embeddings[:, 0].tolist(), strict=True))
            return embeddings.sum()

    class Level(nn.Module):
        """The grey level of an image as its only feature; `dummy` so that there is something to train."""

        def __init__(self) -> None:
            super().__init__()
            self.dummy = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=1, keepdim=True) + 0 * self.dummy

    grey = SimilarityModel(Level(), Embedder(GAP(), normalise=False), Cosine())
    train(grey, Spy(), None, Examples(IDS, LABELS, level), RECIPE)
    assert len(seen) >= len(IDS)
    assert all(target == LABELS[round(level)] // 10 for target, level in seen)
    for start in range(0, len(seen), RECIPE.batch_size):
        classes = [target for target, _ in seen[start : start + RECIPE.batch_size]]
        assert sorted(classes.count(label) for label in set(classes)) == [2] * 4


def labels_seen(recipe: Recipe) -> dict[int, int]:
    """By image, the class with which it comes, under a loss that has nothing to learn."""
    seen: dict[int, int] = {}

    class Spy(nn.Module):
        def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
            seen.update(zip(embeddings[:, 0].long().tolist(), targets.tolist(), strict=True))
            return embeddings.sum()

    trunk = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False)).requires_grad_(False)
    nn.init.constant_(trunk[0].weight, 1 / 3)
    grey = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(1, 1), normalise=False), Cosine())
    nn.init.ones_(grey.embedder.projection.weight)
    nn.init.constant_(grey.embedder.projection.bias, 0.5)
    slow = replace(recipe, lr=1e-12, weight_decay=0.0)
    train(grey, Spy(), None, Examples(IDS, LABELS, level), slow)
    return seen


def test_shuffled_labels_are_the_same_ones_on_other_images() -> None:
    true = {k: label // 10 for k, label in enumerate(LABELS)}
    long = replace(RECIPE, epochs=12)
    assert labels_seen(long) == true
    shuffled = labels_seen(replace(long, shuffle_labels=True))
    assert shuffled.keys() == true.keys()
    assert sorted(shuffled.values()) == sorted(true.values())
    assert shuffled != true
    assert labels_seen(replace(long, shuffle_labels=True)) == shuffled  # each image keeps its label for all epochs
    assert labels_seen(replace(long, shuffle_labels=True, seed=1)) != shuffled


def test_train_mode_spares_frozen_batch_norm_only() -> None:
    of = model()
    set_train_mode(of, freeze_batchnorm=True)
    assert not of.trunk[1].training
    assert of.trunk[0].training
    set_train_mode(of, freeze_batchnorm=False)
    assert of.trunk[1].training


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="needs two classes, not 1"):
        train(model(), softmax(), None, Examples(IDS[:3], [5, 5, 5], picture), RECIPE)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    class Broken(nn.Module):
        def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
            return embeddings.sum() * torch.nan

    with pytest.raises(UserError, match=r"the loss became nan at update 0: lower train\.lr"):
        train(model(), Broken(), None, EXAMPLES, RECIPE)


def unreadable(image_id: str) -> Tensor:
    raise UserError(f"cannot read {image_id}: restore it")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence_from_any_process(workers: int) -> None:
    with pytest.raises(UserError) as caught:
        train(model(), softmax(), None, Examples(IDS, LABELS, unreadable), replace(RECIPE, workers=workers))
    assert re.fullmatch(r"cannot read \w+: restore it", str(caught.value))
