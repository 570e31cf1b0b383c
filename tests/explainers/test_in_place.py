"""Networks that work in place: their maps are those of the same network that does not, and nothing stored changes."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfam_bench.api import explain
from sfam_bench.core.method_card import card_of
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation.named import find_object
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.relevance import Rules, relevance
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from tests.contract import pairs
from tests.explainers.test_contract import EXPLAINERS, explainer, ready
from tests.transformers import tiny_transformer

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Step(nn.Module):
    """x -> relu(x + 0.5), in place in one of the ways in which people write it, or not in place."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.module = way, nn.ReLU(inplace=way == "module")

    def forward(self, x: Tensor) -> Tensor:
        match self.way:
            case "module":
                x += 0.5
                return self.module(x)
            case "function":  # what is returned is not used
                x.add_(0.5)
                F.relu(x, inplace=True)
                return x
            case "position":
                x += 0.5
                return F.relu(x, True)
            case _:
                return F.relu(x + 0.5)


class Mean(nn.Module):
    """A pooling that begins with a step."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.step = Step(way)

    def forward(self, activations: Tensor) -> Tensor:
        pooled: Tensor = self.step(activations).mean(dim=(2, 3))
        return pooled


PARTS = ("trunk", "tail", "pooling", "head")
WAYS = ("module", "function", "position")


def network(part: str, way: str) -> SimilarityModel:
    """A small network one part of which begins, and whose trunk ends each layer, with a step."""
    ways = {name: way if name == part else "none" for name in PARTS}
    torch.manual_seed(0)
    trunk = nn.Sequential(
        Step(ways["trunk"]),
        nn.Conv2d(3, 6, 3, stride=2),
        Step(ways["trunk"]),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8),
    )
    tail = nn.Sequential(Step(ways["tail"]), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    head = nn.Sequential(Step(ways["head"]), nn.Linear(8, 6))
    return build(part, (trunk, tail), Mean(ways["pooling"]), Cosine(), head, image_size=32)


@cache
def plain_maps(name: str) -> Tensor:
    return maps(name, network("none", "none"))


def maps(name: str, model: SimilarityModel) -> Tensor:
    batch = pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    stored = [encoded.query.images.clone(), encoded.query.activations.clone(), encoded.query.embeddings.clone()]
    found = ready(name, model)(model, encoded, batch)
    after = [encoded.query.images, encoded.query.activations, encoded.query.embeddings]
    assert all(torch.equal(one, other) for one, other in zip(stored, after, strict=True))
    assert torch.equal(batch.query, pairs().query)
    return found


METHODS = [name for name in EXPLAINERS if card_of(explainer(name)).needs != "attention"]
# The model alone keeps what it stores from being changed, so ways and parts meet methods in turn, and all of them one
TURN = {
    (name, part, WAYS[(at + of) % 3]): of == at % 4 for at, name in enumerate(METHODS) for of, part in enumerate(PARTS)
}
TURN |= {("sfam", part, way): True for part in PARTS for way in WAYS}
MET = [pytest.param(*case, marks=[] if quick else [pytest.mark.slow]) for case, quick in TURN.items()]


@pytest.mark.parametrize(("name", "part", "way"), MET)
def test_a_network_of_ones_own(name: str, part: str, way: str) -> None:
    torch.testing.assert_close(maps(name, network(part, way)), plain_maps(name), **CLOSE)


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if card_of(explainer(name)).needs == "attention"])
@pytest.mark.parametrize("token", ["patch", "class"])
def test_a_transformer_with_parts_of_ones_own(name: str, token: str) -> None:
    found = []
    for way in ("function", "none"):
        torch.manual_seed(0)
        head = nn.Sequential(Step(way), nn.Linear(24, 5))
        found.append(maps(name, tiny_transformer("cosine", token, pooling=Mean(way), head=head)))
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.slow
def test_densenet_whose_last_function_is_in_place() -> None:
    torch.manual_seed(0)
    trunk, tail = trunk_and_tail("torchvision", "densenet121", "features")
    assert tail is not None
    assert any(node.kwargs.get("inplace") for node in tail.graph.nodes)  # else this would test nothing
    images = torch.rand(2, 3, 64, 64)
    chosen: dict[str, Explainer] = {
        name: find_object("explainer", name) for name in ("sfam", "lafam", "grad_cam", "input_x_gradient")
    }
    ours = explain(build("in place", (trunk, tail), GAP(), Cosine(), image_size=64), *images, chosen)
    theirs = explain(build("not", (trunk, nn.ReLU()), GAP(), Cosine(), image_size=64), *images, chosen)
    assert not ours.flags
    for name in chosen:
        torch.testing.assert_close(ours.query_maps[name], theirs.query_maps[name], **CLOSE)


@pytest.mark.parametrize("rule", ["zplus", "epsilon", "gamma"])
def test_a_layer_and_its_batch_norm_on_either_side_of_the_cut_are_one(rule: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()]
    for values in (layers[1].running_mean, layers[1].running_var, layers[1].weight):
        values.data.uniform_(0.5, 2)
    images = torch.rand(2, 3, 16, 16)
    found = []
    for cut in (1, 3):
        trunk, tail = nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])
        model = build("cut", (trunk, tail), GAP(), Cosine(), image_size=16)
        found.append(
            relevance(Rules(rule), lambda x, m=model: m.embedder.pool(m.run_trunk(x)), images, torch.ones_like)
        )
    torch.testing.assert_close(*found, **CLOSE)


def test_relevance_refuses_what_is_written_into_a_part_of_a_tensor() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0] = 0
            return x

    layers = nn.Sequential(nn.Conv2d(3, 4, 3), Written(), nn.Conv2d(4, 4, 3))
    with pytest.raises(Exception, match="no rule for the function 'setitem'"):
        relevance(Rules("zplus"), lambda x: layers(x).mean(dim=(2, 3)), torch.rand(1, 3, 9, 9), torch.ones_like)
