"""Small networks in float64 for the methods that go down to the pixels."""

import torch
from torch import nn

from sfam_bench.core.records import PairBatch
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import SIMILARITIES, TARGETS

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def rectifiers(bias=True, activation=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        activation(),
        nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=bias),
        nn.ReLU(),
    )


def setting(
    trunk=rectifiers,
    pooling=GAP,
    head=None,
    similarity=SIMILARITIES[0],
    normalise=True,
    tail=None,
    target="similarity",
    seed=0,
    size=(7, 5),
    count=2,
):
    """A model and its encoded pairs."""
    torch.manual_seed(seed)
    model = SimilarityModel(trunk(), Embedder(pooling(), head, tail, normalise), similarity).double().eval()
    images = torch.rand(3, count, 3, *size, dtype=torch.float64)
    names = [tuple(f"{side}{row}" for row in range(count)) for side in "qrn"]
    pairs = PairBatch(names[0], names[1], images[0], images[1], names[2], images[2])
    return model, encode_pairs(model, TARGETS[target], *images), pairs
