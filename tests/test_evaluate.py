"""The flow from pairs to records: what is recorded, and what is flagged."""

import math

import pytest
import torch
from torch import nn

from sfam_bench.errors import UserError
from sfam_bench.evaluate import PAIR, evaluate
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.localisation import EnergyPointingGame, PointingGame
from sfam_bench.models.build import build
from sfam_bench.models.heads import linear
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.records import PairBatch
from sfam_bench.similarity import Cosine, NegativeEuclidean
from sfam_bench.targets import Similarity


def model(head=None, similarity=None):
    torch.manual_seed(0)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), similarity or Cosine(), head, image_size=32)


def batch(count=3, regions=("foreground",)):
    images = torch.rand(2, count, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(count, 32, 24, dtype=torch.bool)
    mask[:, 4:20, 6:18] = True
    ids = [tuple(f"{side}{i}" for i in range(count)) for side in "qr"]
    return PairBatch(*ids, *images, masks=dict.fromkeys(regions, mask))


def records(network, pairs, explainers, metrics):
    (shard,) = evaluate(network, Similarity(), [pairs], explainers, metrics, "made")
    return shard.records


def test_each_pair_explainer_and_metric_gives_one_record():
    found = records(model(), batch(), {"sfam": SFAM(), "lafam": LaFAM()}, {"point": PointingGame()})
    keys = [(r.explainer, r.metric, r.query_id, r.reference_id) for r in found]
    expected = [(e, "point", f"q{i}", f"r{i}") for e in ("sfam", "lafam") for i in range(3)]
    assert keys == [*expected, *((PAIR, "s_full", f"q{i}", f"r{i}") for i in range(3))]


def test_a_metric_whose_region_is_absent_says_nothing():
    found = records(model(), batch(regions=()), {"sfam": SFAM()}, {"point": PointingGame()})
    assert {r.metric for r in found} == {"s_full"}


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()], ids=lambda s: s.name)
def test_the_similarity_without_the_head_stands_beside_the_score(similarity):
    network, pairs = model(linear(5), similarity), batch()
    found = {r.query_id: r.value for r in records(network, pairs, {}, {}) if r.metric == "s_headless"}
    pooled = [network.trunk(images).mean(dim=(2, 3)) for images in (pairs.query, pairs.reference)]
    unit = [nn.functional.normalize(features, dim=1) for features in pooled]
    assert list(found.values()) == pytest.approx(similarity(*unit).tolist(), rel=1e-5)
    assert "s_headless" not in {r.metric for r in records(model(), pairs, {}, {})}


def test_a_map_without_positive_part_is_flagged_for_energy_alone():
    negative = SFAM(euclidean_cis="negative")
    metrics = {"energy": EnergyPointingGame(), "point": PointingGame()}
    found = records(model(similarity=NegativeEuclidean()), batch(), {"negative": negative}, metrics)
    flags = {(r.metric, r.flag) for r in found if r.metric != "s_full"}
    assert flags == {("energy", "no_positive_part"), ("point", "")}
    assert all(math.isnan(r.value) == bool(r.flag) for r in found)


def test_an_explainer_that_loses_a_pair_is_refused():
    class Loses:
        def __call__(self, model, encoded, pairs):
            return encoded.query.activations[1:, 0]

    with pytest.raises(UserError, match=r"for 3 pairs: expected \(batch, rows, cols\)"):
        records(model(), batch(), {"loses": Loses()}, {})
