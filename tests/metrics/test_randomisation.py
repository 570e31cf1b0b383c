"""The cascade of randomised models, what it leaves alone, and values by hand."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.controls import Centre, Chance, Edges
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.randomisation import (
    EfficientRandomisation,
    ModelRandomisation,
    Randomised,
    SmoothRandomisation,
    cascade,
    randomise,
    units,
)
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.likeness import Remaking, remake_maps, resize_maps, spearman
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.metrics.stability import Noisy
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny, traces

MODEL = tiny(*SETUPS[2])  # GeM and a head of two layers


def scene_of(model: SimilarityModel = MODEL) -> Scene:
    batch = pairs()
    return Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)


def explained(scene: Scene, method: object) -> Explained:
    raw = method(scene.model, scene.encoded, scene.pairs)  # type: ignore[operator]
    return Explained(scene, upsample(normalise(raw), SIZE), "method", raw, method)  # type: ignore[arg-type]


def differing(one: nn.Module, other: nn.Module) -> set[str]:
    """Modules whose tensors differ."""
    others = other.state_dict()
    return {key.rpartition(".")[0] for key, value in one.state_dict().items() if not torch.equal(value, others[key])}


def test_units_are_blocks_from_the_images_up_norms_with_what_is_before_them() -> None:
    assert units(tiny(*SETUPS[0])) == [[f"trunk.layers.{3 * k}", f"trunk.layers.{3 * k + 1}"] for k in range(6)]
    assert units(MODEL)[-2:] == [["trunk.layers.15", "trunk.layers.16", "embedder.pooling"], ["embedder.projection"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "first", "last", "count"),
    [
        ("resnet18", None, ["trunk.1.conv1", "trunk.1.bn1"], ["trunk.1.layer4.1"], 9),
        ("resnet18", "layer2", ["trunk.1.conv1", "trunk.1.bn1"], ["embedder.tail.layer4.1"], 9),
        ("vit_tiny_patch16_224", None, ["trunk.1.transformer.patch_embed"], None, 13),
    ],
)
def test_backbones_come_apart_into_their_blocks(
    name: str, layer: str | None, first: list[str], last: list[str] | None, count: int
) -> None:
    model = build("m", trunk_and_tail("timm", name, layer, embedding="pooled"), GAP(), Cosine())
    found = units(model)
    assert found[0] == first
    assert last in (None, found[-1])
    assert len(found) == count
    fully = randomise(model, 0)
    constant = {key for key, value in model.state_dict().items() if value.unique().numel() == 1}
    same = {key for key, value in fully.state_dict().items() if torch.equal(value, model.state_dict()[key])}
    assert same <= constant  # of an untrained model, such as the scales of norms
    assert fully(torch.rand(1, 3, 224, 224)).isfinite().all()


def test_the_cascade_goes_from_the_top_down_and_ends_with_nothing_of_the_original() -> None:
    before, kept = traces(MODEL), {key: value.clone() for key, value in MODEL.state_dict().items()}
    models = cascade(MODEL, 1, 4)
    assert len(models) == 4
    changes = [differing(model, MODEL) for model in models]
    for earlier, later in pairwise(changes):
        assert earlier < later
    assert {name for name in changes[0] if name.startswith("embedder.projection")}
    assert "trunk.layers.0" not in changes[2]
    assert "trunk.layers.0" in changes[3]
    for earlier, later in pairwise(models):
        assert differing(earlier, later) == differing(earlier, MODEL) ^ differing(later, MODEL)  # drawn once
    assert traces(MODEL) == before
    assert all(torch.equal(value, kept[key]) for key, value in MODEL.state_dict().items())
    assert not any(
        module is other for model in models for module, other in zip(model.modules(), MODEL.modules(), strict=True)
    )


def test_what_stays_is_shared_and_not_copied() -> None:
    first = cascade(MODEL, 1, 4)[0]
    assert first.trunk.layers[0].weight is MODEL.trunk.layers[0].weight
    assert first.embedder.projection is not MODEL.embedder.projection


def test_the_weights_hang_on_the_seed_alone_and_no_draw_is_disturbed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ours = randomise(MODEL, 0)
    assert torch.equal(torch.rand(3), expected)
    assert not differing(ours, randomise(MODEL, 0))
    assert differing(ours, randomise(MODEL, 1))
    fewer, more = cascade(MODEL, 0, 2)[-1], cascade(MODEL, 0, 3)[-1]
    assert not differing(fewer, more)


def test_weights_that_no_module_can_draw_are_shuffled() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Parameter(torch.arange(30.0).view(1, 3, 2, 5))

        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3), keepdim=True) + self.tokens

    model = SimilarityModel(Tokens(), Embedder(GAP()), Cosine())
    assert units(model) == [["trunk"]]
    (drawn,) = cascade(model, 0, 5)
    assert not torch.equal(drawn.trunk.tokens, model.trunk.tokens)
    assert sorted(drawn.trunk.tokens.flatten().tolist()) == list(range(30))


def test_models_are_kept_for_later_batches_and_go_with_the_original() -> None:
    model = tiny(*SETUPS[0])
    models = cascade(model, 0, 3)
    assert cascade(model, 0, 3) is models
    gone = weakref.ref(models[0])
    del models, model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", [Edges(), Centre(), Chance()], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("measure", ["spearman", "ssim"])
def test_maps_that_hang_on_no_weights_score_1(method: object, measure: str) -> None:
    found = ModelRandomisation(measure=measure)(explained(scene_of(), method)).values
    assert found.tolist() == pytest.approx([1] * 3, abs=1e-6)


def test_values_by_hand() -> None:
    scene = scene_of()

    def turns(model: SimilarityModel, encoded: object, batch: object) -> Tensor:
        """The reverse of its own map, once the lowest layer is gone."""
        own = torch.arange(20.0).view(1, 4, 5).repeat(3, 1, 1)
        return own if model.trunk.layers[0].weight is MODEL.trunk.layers[0].weight else 19 - own

    seen = explained(scene, turns)
    assert ModelRandomisation(value="full", seed=1)(seen).values.tolist() == pytest.approx([-1] * 3, abs=1e-6)
    assert ModelRandomisation(stages=4, seed=1)(seen).values.tolist() == pytest.approx([(3 - 1) / 4] * 3, abs=1e-6)
    assert ModelRandomisation(stages=1, seed=1)(seen).values.tolist() == pytest.approx([-1] * 3, abs=1e-6)


def test_the_mean_is_that_of_the_methods_maps_of_each_model() -> None:
    scene = scene_of()
    seen = explained(scene, SFAM())
    expected = []
    for model in cascade(MODEL, 0, 3):
        encoded = encode_pairs(model, Similarity(), scene.pairs.query, scene.pairs.reference)
        expected.append(spearman(seen.maps, resize_maps(SFAM()(model, encoded, scene.pairs), seen.maps)))
    torch.testing.assert_close(ModelRandomisation(stages=3)(seen).values, torch.stack(expected).mean(dim=0))
    torch.testing.assert_close(ModelRandomisation(stages=3, value="full")(seen).values, expected[-1])


def test_a_method_that_samples_asks_the_randomised_model() -> None:
    scene, method = scene_of(), RISE(masks=6, grid=3)
    last = cascade(MODEL, 0, 2)[-1]
    encoded = encode_pairs(last, Similarity(), scene.pairs.query, scene.pairs.reference)
    torch.testing.assert_close(
        remake_maps(explained(scene, method), Randomised(1, 0, 2)), method(last, encoded, scene.pairs)
    )


def test_one_stage_without_a_map_leaves_no_value() -> None:
    def lost(model: SimilarityModel, encoded: object, batch: object) -> Tensor:
        own = torch.arange(20.0).view(1, 4, 5).repeat(3, 1, 1)
        if model is not MODEL:
            own[1] = 0
        return own

    seen = explained(scene_of(), lost)
    assert ModelRandomisation()(seen).values.isnan().tolist() == [False, True, False]
    assert ModelRandomisation()(seen).reasons["constant_further_map"].tolist() == [False, True, False]


@pytest.mark.parametrize("metric", [ModelRandomisation(), SmoothRandomisation(samples=2), EfficientRandomisation()])
def test_a_further_map_that_is_not_finite_leaves_no_value(metric: Remaking) -> None:
    def broken(model: SimilarityModel, encoded: object, batch: object) -> Tensor:
        own = torch.arange(20.0).view(1, 4, 5).repeat(3, 1, 1)
        if model is not MODEL:
            own[1] = torch.nan
        return own

    found = metric(explained(scene_of(), broken))
    assert found.values.isnan().tolist() == [False, True, False]
    assert found.reasons["nonfinite_further_map"].tolist() == [False, True, False]


def test_no_stage_is_refused() -> None:
    with pytest.raises(UserError, match="stages is 0: expected a number of at least 1"):
        ModelRandomisation(stages=0)


def test_smooth_randomisation_compares_the_mean_maps_under_noise() -> None:
    scene = scene_of()
    seen = explained(scene, SFAM())
    metric = SmoothRandomisation(samples=3, noise=0.05, seed=2)
    drawn = Scene(*Randomised(-1, 2, 1)(scene))
    means = []
    for one in (scene, drawn):
        maps = [SFAM()(*Noisy(sample, 0.05, 2, "gaussian")(one)) for sample in range(3)]
        means.append(torch.stack([resize_maps(raw, seen.maps) for raw in maps]).mean(dim=0))
    torch.testing.assert_close(metric(seen).values, spearman(*means))
    assert SmoothRandomisation(samples=2)(explained(scene, Edges())).values.tolist() == [1.0] * 3


def test_efficient_randomisation_is_the_relative_rise_of_entropy() -> None:
    scene = scene_of()
    seen = explained(scene, SFAM())
    changed = Randomised(-1, 0, 1)(scene)
    other = resize_maps(SFAM()(*changed), seen.maps)
    expected = []
    for one, two in zip(seen.maps, other, strict=True):
        entropies = []
        for values in (one, two):
            counts = np.histogram(values.double().numpy(), 20)[0]
            shares = counts[counts > 0] / counts.sum()
            entropies.append(-(shares * np.log(shares)).sum())
        expected.append((entropies[1] - entropies[0]) / entropies[0])
    torch.testing.assert_close(EfficientRandomisation(bins=20)(seen).values, torch.tensor(expected).float())
    assert EfficientRandomisation()(explained(scene, Centre())).values.tolist() == [0.0] * 3
