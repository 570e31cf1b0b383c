"""Rates, groups, clipping and draws, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.training.data import CachedActivations, Examples, Order, draw_image
from sfam_bench.training.loop import train
from sfam_bench.training.recipe import Recipe
from sfam_bench.training.validation import Choice, Validation
from tests.training.toy import EXAMPLES, IDS, LABELS, RECIPE, augmented, model, picture, softmax

NUMBERS = EXAMPLES.number_classes(RECIPE)


def rates(recipe: Recipe, epoch_steps: int = 4) -> list[float]:
    optimiser = recipe.make_optimiser(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": recipe.lr, "weight_decay": 0.0}]
    )
    schedule, found = recipe.make_schedule(optimiser, epoch_steps), []
    for _ in range(recipe.epochs * epoch_steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_schedules_by_hand() -> None:
    flat = Recipe(epochs=4, lr=8.0, schedule="constant")
    assert rates(flat, 2) == [8.0] * 8
    assert rates(replace(flat, warmup_epochs=2), 2) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    assert rates(replace(flat, schedule="step", step_epochs=2, step_factor=0.25), 2) == [8.0] * 4 + [2.0] * 4
    cosine = rates(replace(flat, schedule="cosine"), 1)
    assert cosine == pytest.approx([8.0, 4 + 8**0.5, 4.0, 4 - 8**0.5])
    assert rates(replace(flat, schedule="cosine", warmup_epochs=2), 1) == pytest.approx([4.0, 8.0, 8.0, 4.0])
    cycle = rates(replace(flat, schedule="one_cycle"), 10)
    assert max(cycle) == pytest.approx(8.0)
    assert cycle[0] == pytest.approx(8.0 / 25)
    assert cycle[-1] < 0.02


def test_each_group_learns_at_its_own_rate_and_decay() -> None:
    of, criterion = model(), softmax()
    recipe = Recipe(lr=1.0, head_lr=2.0, loss_lr=3.0, weight_decay=0.1, loss_weight_decay=0.0)
    body, head, proxies = recipe.groups(of, criterion)
    assert [group["name"] for group in (body, head, proxies)] == ["body", "head", "proxies"]
    assert [(group["lr"], group["weight_decay"]) for group in (body, head, proxies)] == [(1, 0.1), (2, 0.1), (3, 0.0)]
    assert {id(weight) for weight in head["params"]} == {id(weight) for weight in of.embedder.projection.parameters()}
    everything = [id(weight) for group in (body, head) for weight in group["params"]]
    assert sorted(everything) == sorted(id(weight) for weight in of.parameters())
    only = replace(recipe, part="embedder").groups(of, criterion)
    assert [group["name"] for group in only] == ["head", "proxies"]
    assert replace(recipe, head_lr=None).groups(of, criterion)[1]["lr"] == 1.0
    assert replace(recipe, head_lr=0).groups(of, criterion)[1]["lr"] == 0


def test_nothing_to_learn_is_said() -> None:
    of = model()
    of.embedder.projection = nn.Identity()
    with pytest.raises(UserError, match="nothing here can learn"):
        Recipe(part="embedder").groups(of, nn.TripletMarginLoss())


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "rmsprop", "sgd"])
def test_every_optimiser_learns(optimiser: str) -> None:
    history = train(
        model(), softmax(), None, EXAMPLES, replace(RECIPE, optimiser=optimiser, lr=1e-2, schedule="constant", epochs=6)
    )
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_head_learns_first() -> None:
    of = model()
    before = {key: value.clone() for key, value in of.state_dict().items()}
    train(of, softmax(), None, EXAMPLES, replace(RECIPE, epochs=1, head_first_epochs=1, freeze_batchnorm=True))
    moved = {key for key, value in of.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"embedder.projection.weight", "embedder.projection.bias"}


def test_a_gradient_is_clipped_by_value_and_by_norm() -> None:
    def step(**clip: float) -> float:
        of = model()
        before = of.trunk[0].weight.detach().clone()
        plain = Recipe(epochs=1, batch_size=20, per_class=0, optimiser="sgd", momentum=0, lr=1, weight_decay=0)
        train(of, softmax(), None, EXAMPLES, replace(plain, schedule="constant", **clip))
        return float((of.trunk[0].weight.detach() - before).abs().max())

    assert step() > 1e-3
    assert step(clip_value=1e-5) == pytest.approx(1e-5, rel=0.01)
    assert step(clip_norm=1e-3) < 1e-3


def test_the_moving_average_is_what_is_kept() -> None:
    seen: list[Tensor] = []

    def note(step: int, numbers: object) -> None:
        if "lr" in numbers:  # type: ignore[operator]
            seen.append(of.trunk[0].weight.detach().clone())

    of = model()
    train(of, softmax(), None, EXAMPLES, replace(RECIPE, epochs=2, ema=0.5), log=note)
    average = seen[0]  # torch's starts as a copy of the first
    for weight in seen[1:]:
        average = 0.5 * average + 0.5 * weight
    torch.testing.assert_close(of.trunk[0].weight.detach(), average)


def test_half_precision_trains_too() -> None:
    full = train(model(), softmax(), None, EXAMPLES, RECIPE)
    half = train(model(), softmax(), None, EXAMPLES, replace(RECIPE, amp="bfloat16"))
    assert half["loss"].tolist() == pytest.approx(full["loss"].tolist(), rel=0.05)
    assert half["loss"].tolist() != full["loss"].tolist()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 0}, "Recipe.epochs is 0: expected a number of at least 1"),
        ({"lr": -1}, "Recipe.lr is -1: expected a number of at least 0"),
        ({"lr": math.nan}, "Recipe.lr is nan: expected a number of at least 0"),
        ({"loss_lr": math.inf}, "Recipe.loss_lr is inf: expected a number of at least 0"),
        ({"head_lr": -1e-4}, "Recipe.head_lr is -0.0001: expected a number of at least 0"),
        ({"weight_decay": -1}, "Recipe.weight_decay is -1"),
        ({"loss_weight_decay": math.nan}, "Recipe.loss_weight_decay is nan"),
        ({"momentum": 1.0}, "Recipe.momentum is 1.0: expected a number between 0 and 0.9999"),
        ({"clip_norm": 0}, "Recipe.clip_norm is 0: expected a number above 0"),
        ({"clip_value": -2}, "Recipe.clip_value is -2: expected a number above 0"),
        ({"step_factor": 0.0}, "Recipe.step_factor is 0.0: expected a number above 0"),
        ({"warmup_epochs": -1}, "Recipe.warmup_epochs is -1"),
        ({"head_first_epochs": -1}, "Recipe.head_first_epochs is -1"),
        ({"workers": -1}, "Recipe.workers is -1"),
        ({"per_class": -4}, "Recipe.per_class is -4: expected a number of at least 0"),
        ({"batch_size": -32}, "Recipe.batch_size is -32: expected a number of at least 1"),
        ({"ema": math.nan}, "Recipe.ema is nan"),
        ({"lr": 0, "loss_lr": 0}, "nothing would be learnt"),
        ({"per_class": 3}, "is not a multiple of train.per_class=3"),
        ({"schedule": "one_cycle", "warmup_epochs": 1}, "one_cycle has its own warm-up"),
        ({"ema": 1.0}, "give a decay between 0 and 1"),
        ({"checkpoint_steps": 0}, "Recipe.checkpoint_steps is 0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Recipe(**fields)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_filled_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size=32 is more than 20 images"):
        EXAMPLES.number_classes(Recipe())
    with pytest.raises(UserError, match=r"batch_size=12 .* train.per_class=2 of each of 4 classes"):
        EXAMPLES.number_classes(Recipe(batch_size=12, per_class=2))


# What is drawn


def test_an_augmentation_hangs_on_image_seed_and_draw_alone() -> None:
    one = draw_image("3", augmented, 0, 7)
    torch.rand(5)
    assert torch.equal(draw_image("3", augmented, 0, 7), one)
    others = [draw_image("4", augmented, 0, 7), draw_image("3", augmented, 1, 7), draw_image("3", augmented, 0, 8)]
    assert not any(torch.equal(other, one) for other in others)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_image("3", augmented, 0, 7)
    assert torch.equal(torch.rand(3), expected)  # nothing is taken from the caller's generator


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0, 2]), st.integers(0, 7), st.integers(0, 3))
def test_batches_from_any_step_on_are_those_of_the_whole(per_class: int, step: int, seed: int) -> None:
    recipe = Recipe(batch_size=4, per_class=per_class, seed=seed)
    whole = Order(NUMBERS, recipe)
    expected = []
    for epoch in range(2):
        whole.step = epoch * len(whole)
        expected += list(whole)
    resumed = Order(NUMBERS, recipe)
    resumed.step = step
    assert list(resumed) == expected[step : (step // len(whole) + 1) * len(whole)]


@pytest.mark.parametrize("per_class", [0, 2])
def test_shares_of_two_processes_make_the_batch(per_class: int) -> None:
    recipe = Recipe(batch_size=8, per_class=per_class)
    first, second = (list(Order(NUMBERS, recipe, rank, 2)) for rank in range(2))
    assert [one + other for one, other in zip(first, second, strict=True)] == list(Order(NUMBERS, recipe))
    with pytest.raises(UserError, match="batch_size=8 does not divide among 3 processes"):
        Order(NUMBERS, recipe, 0, 3)


def test_without_classes_each_image_comes_once_an_epoch() -> None:
    places = [place for batch in Order(NUMBERS, Recipe(batch_size=4, per_class=0)) for place, _ in batch]
    assert sorted(places) == list(range(20))


def test_cached_activations_are_those_of_the_frozen_trunk() -> None:
    of = model()
    noisy = replace(EXAMPLES, load=augmented)
    cached = CachedActivations(of, noisy, NUMBERS, Recipe(part="embedder", views=3))
    activations, label = cached[(4, 7)]
    expected = of.encode(draw_image(IDS[4], augmented, 0, 1)[None]).activations[0]  # draw 7 is view 1 of 3
    torch.testing.assert_close(activations, expected)
    assert label == NUMBERS[4]


def test_a_head_on_cached_activations_learns_what_it_learns_on_images() -> None:
    def learnt(part: str) -> SimilarityModelWeights:
        of = model()
        of.trunk.requires_grad_(part == "embedder")  # frozen by hand for the other way
        train(of, softmax(), None, EXAMPLES, replace(RECIPE, part=part, freeze_batchnorm=True))  # type: ignore[arg-type]
        return of.state_dict()

    cached, images = learnt("embedder"), learnt("all")
    for key, value in images.items():
        torch.testing.assert_close(cached[key], value)
    assert torch.equal(cached["trunk.0.weight"], model().trunk[0].weight)
    assert not torch.equal(cached["embedder.projection.weight"], model().embedder.projection.weight)


SimilarityModelWeights = dict[str, Tensor]


def test_too_many_activations_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfam_bench.training.data.LARGEST_CACHE", 1000)
    loaded: list[str] = []

    def load(image_id: str) -> Tensor:
        loaded.append(image_id)
        return picture(image_id)

    with pytest.raises(UserError, match=r"2000 activations of \(8, 6, 6\) take 0 GiB of memory: lower train.views"):
        CachedActivations(model(), Examples(IDS, LABELS, load), NUMBERS, Recipe(part="embedder", views=100))
    assert len(loaded) < 40  # two batches at most


# Which epoch is kept


def test_folds_are_blocks_of_classes_that_cover_them_once() -> None:
    labels = [5, 5, 9, 1, 7, 7, 3, 2, 8, 4]  # nine classes
    held = [Validation(folds=3, fold=fold).held_out(labels) for fold in range(3)]
    assert [{label for label, out in zip(labels, one, strict=True) if out} for one in held] == [
        {1, 2, 3},
        {4, 5, 7},
        {8, 9},
    ]
    assert [sum(column) for column in zip(*held, strict=True)] == [1] * 10


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(UserError, match="counted from 0"):
        Validation(folds=3, fold=3)
    with pytest.raises(UserError, match="leave fewer than two to a fold"):
        Validation(folds=3).held_out([1, 2, 3, 4, 5])


def test_the_best_epoch_is_kept_and_read_as_often_as_asked() -> None:
    seen: list[Tensor] = []
    values = iter([0.2, 0.9, 0.3])

    def measures() -> dict[str, float]:
        seen.append(of.trunk[0].weight.detach().clone())
        return {"map_at_r": next(values), "recall_at_1": 0.5}

    of = model()
    history = train(
        of, softmax(), None, EXAMPLES, replace(RECIPE, epochs=5), choice=Choice(measures, "map_at_r", every=2)
    )
    assert history["validation_map_at_r"].fillna(-1).tolist() == [-1, 0.2, -1, 0.9, 0.3]  # the last is always read
    assert torch.equal(of.trunk[0].weight, seen[1])
