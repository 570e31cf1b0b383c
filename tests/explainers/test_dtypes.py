"""Models in another precision than float32, or of layers that cannot be differentiated: the same maps, or one line."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sfam_bench.api import explain
from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import card_of
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import Sampling
from sfam_bench.models.build import build
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import FILES, SETUPS, build_entries, gallery, pairs, tiny
from tests.explainers.test_contract import EXPLAINERS, explainer, ready, usual

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trunk(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())


def small(head: nn.Module | None = None):
    return build("small", trunk(), GAP(), Cosine(), nn.Linear(8, 4) if head is None else head, image_size=32)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_of_a_model_in_double_precision(name: str) -> None:
    """Images stay in single precision; noise that is drawn in the type of the images differs in its last bits."""
    model, batch = usual(card_of(explainer(name)).needs), pairs(2)
    single, double = (
        ready(name, one)(one, encode_pairs(one, Similarity(), batch.query, batch.reference), batch)
        for one in (model, deepcopy(model).double())
    )
    torch.testing.assert_close(double.float(), single, rtol=1e-2, atol=1e-2 * float(single.abs().max()))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_callers_default_precision_does_not_matter(name: str) -> None:
    model, batch = usual(card_of(explainer(name)).needs), pairs(2)
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    method = ready(name, model)
    usually = method(model, encoded, batch)
    torch.set_default_dtype(torch.float64)
    try:
        found = method(model, encoded, batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, usually, rtol=1e-4, atol=1e-4 * float(usually.abs().max()))


def test_every_metric_measures_a_model_in_double_precision() -> None:
    metrics = {
        name: metric
        for group, file in FILES
        if group == "metric"
        for name, metric in build_entries("metric", file).items()
    }
    model, batch = tiny(*SETUPS[1]).double(), pairs(1)
    (shard,) = evaluate(
        model, Similarity(), [batch], {"sfam": SFAM()}, metrics, "any", gallery=gallery(model, batch), keep_curves=False
    )
    found = {record.metric: record.value for record in shard.records}
    assert found["reference_sensitivity_noise"] > 0
    assert len(found) > 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"the weights of small are {name}: call .float\(\)"):
        explain(small().to(dtype), *IMAGES)
    with pytest.raises(UserError, match=rf"the weights of mixed are {name}, float32: call"):
        build("mixed", trunk().to(dtype), GAP(), Cosine(), nn.LazyLinear(4), image_size=32)


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        layers = trunk()
    with pytest.raises(UserError, match=r"created in torch.inference_mode.*build the model outside of it"):
        build("small", layers, GAP(), Cosine(), image_size=32)


class Detached(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


GRADIENTS = [
    name for name in EXPLAINERS if card_of(explainer(name)).needs == "" and not hasattr(explainer(name), "prepare")
]


@pytest.mark.parametrize("quantised", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", GRADIENTS)
def test_a_head_without_gradient_gives_no_map_of_zeros(name: str, quantised: bool) -> None:
    model = small(Detached(8, 4))
    if quantised:
        linear = nn.Sequential(nn.Linear(8, 4))
        model.embedder.projection = torch.ao.quantization.quantize_dynamic(linear, {nn.Linear}, dtype=torch.qint8)
    try:
        found = explain(model, *IMAGES, {name: explainer(name)})
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (a method without gradients works)
    else:  # a score that masks do not change is no lack of a gradient
        assert not found.flags or isinstance(explainer(name), Sampling)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_weights_that_are_not_finite_are_flagged(name: str) -> None:
    model, batch = deepcopy(usual(card_of(explainer(name)).needs)), pairs(1)
    made = ready(name, model)
    for weights in model.parameters():
        weights.data.fill_(torch.nan)
    (shard,) = evaluate(model, Similarity(), [batch], {name: made}, {}, "any")
    assert shard.seconds
    found = made(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
    assert found.shape[0] == 1


@pytest.mark.parametrize("channels", [7, 12])
def test_channels_last_are_refused(channels: int) -> None:
    """With 32 pixels the grid is 7 x 7, so that 7 channels are told by a wider image alone."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, channels, 3, 2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images).permute(0, 2, 3, 1)

    with pytest.raises(UserError, match=r"returns \(1, 7, 7, \d+\) for one image, with its channels last"):
        build("last", Last(), GAP(), Cosine(), image_size=32)
    assert build("first", Last().layers, GAP(), Cosine(), image_size=32).encode(IMAGES).activations.shape[1] == channels
