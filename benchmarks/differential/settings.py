"""The models and pairs on which methods are compared."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, SimilarityFunction
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import Embeddings, Images, RawMaps
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.cuts import Cut
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs


@dataclass(frozen=True)
class Setting:
    """A model and pairs, encoded."""

    name: str
    model: SimilarityModel
    pairs: PairBatch
    encoded: Encoded

    @property
    def references(self) -> Embeddings:
        """What the queries are compared with."""
        return self.encoded.terms[0].side.embeddings

    def ours(self, explainer: Any) -> RawMaps:
        """The maps of one of our methods."""
        maps: RawMaps = explainer(self.model, self.encoded, self.pairs)
        return maps

    def one(self) -> "Setting":
        """The first pair alone."""
        pairs = PairBatch(
            self.pairs.query_ids[:1],
            self.pairs.reference_ids[:1],
            self.pairs.query[:1],
            self.pairs.reference_images[:1],
        )
        return Setting(self.name, self.model, pairs, encode_pairs(self.model, Similarity(), *images(pairs)))


def images(pairs: PairBatch) -> tuple[Images, Images]:
    """Queries and references."""
    return pairs.query, pairs.reference_images


@cache
def parts(layer: str | None) -> Cut:
    """An untrained ResNet-18, cut at `layer`; all similarities share it."""
    torch.manual_seed(0)
    return trunk_and_tail("torchvision", "resnet18", layer)


@cache
def resnet18(layer: str | None, similarity: SimilarityFunction) -> Setting:
    """Three pairs of noise before an untrained ResNet-18 with a linear head, cut at `layer`."""
    trunk, tail = parts(layer)
    torch.manual_seed(1)
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(512, 16), tail, True), similarity).eval()
    query, reference = torch.rand(2, 3, 3, 96, 64)
    pairs = PairBatch(("a", "b", "c"), ("d", "e", "f"), query, reference)
    name = f"ResNet-18 {layer or 'layer4'}, {similarity.name}"
    return Setting(name, model, pairs, encode_pairs(model, Similarity(), query, reference))


def resnets() -> Iterator[Setting]:
    """Each similarity at the last feature map and at layer3."""
    for layer in (None, "layer3"):
        for similarity in (Cosine(), Dot(), NegativeEuclidean()):
            yield resnet18(layer, similarity)


class ScoreOf(nn.Module):
    """The classifier that peers need: images (batch, ...) to the score with one reference each, as the only class."""

    def __init__(self, network: nn.Module, similarity: SimilarityFunction, references: Embeddings) -> None:
        super().__init__()
        self.network, self.similarity, self.references = network, similarity, references

    def forward(self, batch: Tensor) -> Tensor:
        return self.similarity(self.network(batch), self.references.expand(len(batch), -1))[:, None]
