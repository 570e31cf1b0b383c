"""The controls: what they ignore, and that chance repeats by pair."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sfam_bench.explainers.controls import Centre, Chance, LaFAM
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch
from sfam_bench.similarity import Cosine
from sfam_bench.targets import Similarity


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimilarityModel(nn.Conv2d(3, 4, 3), Embedder(GAP()), Cosine()).eval()


def setting(model, ids=("a", "b", "c")):
    images = torch.rand(2, len(ids), 3, 12, 8, generator=torch.Generator().manual_seed(1))
    pairs = PairBatch(tuple(ids), tuple(i + "'" for i in ids), *images)
    return encode_pairs(model, Similarity(), *images), pairs


def test_chance_hangs_on_the_pair_not_on_the_batch(model):
    together = Chance()(model, *setting(model))
    turned = Chance()(model, *setting(model, ("c", "a", "b")))
    assert torch.equal(together, turned[[1, 2, 0]])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, Chance(seed=1)(model, *setting(model)))
    encoded, pairs = setting(model)
    other = Chance()(model, encoded, replace(pairs, reference_ids=("x", "y", "z")))
    assert not torch.equal(together[0], other[0])


def test_centre_is_symmetric_and_highest_in_the_middle(model):
    maps = Centre()(model, *setting(model))
    assert maps.shape == (3, 10, 6)
    torch.testing.assert_close(maps, maps.flip(1, 2))
    assert maps[0].argmax() in (4 * 6 + 2, 4 * 6 + 3, 5 * 6 + 2, 5 * 6 + 3)


def test_lafam_is_the_channel_mean(model):
    encoded, pairs = setting(model)
    assert torch.equal(LaFAM()(model, encoded, pairs), encoded.query.activations.mean(dim=1))
