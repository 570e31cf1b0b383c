"""Conv4 and ResNet-12: sizes, and that flattened positions are the embedding."""

import pytest
import torch

from sfam_bench.app.settings import build
from sfam_bench.models.few_shot_nets import conv4
from tests.contract import composed


@pytest.mark.parametrize(
    ("name", "settings", "grid", "dims", "weights"),
    [
        ("conv4", (), (64, 5, 5), 1600, 112_576 + 512),  # convolutions with bias, and batch norms of 64
        ("conv4", ("model.trunk.flatten=false",), (64, 5, 5), 64, 112_576 + 512),
        ("resnet12", (), (512, 5, 5), 512, 7_996_800),
    ],
)
def test_sizes(name: str, settings: tuple[str, ...], grid: tuple[int, ...], dims: int, weights: int) -> None:
    model = build(composed("train", f"model={name}", *settings).model)
    side = model.encode(torch.rand(2, 3, 84, 84))
    assert side.activations.shape == (2, *grid)
    assert side.embeddings.shape == (2, dims)
    assert sum(weight.numel() for weight in model.parameters()) == weights


def test_the_flattened_embedding_is_the_activations() -> None:
    trunk, tail = conv4()
    assert tail is not None
    activations = trunk.eval()(torch.rand(2, 3, 84, 84))
    assert torch.equal(tail(activations).mean(dim=(2, 3)), activations.flatten(1))
