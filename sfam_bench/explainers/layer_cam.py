"""LayerCAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.forms import target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class LayerCAM:
    """sum_k relu(ds/dA_k,ij) A_k,ij; Jiang et al., TIP 2021.

    The paper's tanh, for fusing layers, is not used.

    relu: drop the negative part of the map; without effect where the activations are rectified.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("where no gradient is negative it is HiResCAM",),
        degenerate=("negative gradients are dropped before the sum",),
    )

    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        maps = (target_gradient(model, encoded).relu() * encoded.query.activations).sum(dim=1)
        return maps.relu() if self.relu else maps
