"""LeGrad on an embedding target."""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import score
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.attention import Layers, Rows, layers_of
from sfam_bench.explainers.shared.forms import differentiating, gradients
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class LeGrad(Checked):
    """mean over layers l, heads and queries of relu(ds_l/dA_l); Bousselham et al., ICCV 2025 (arXiv 2404.03214).

    A_l is the attention of layer l, and s_l the target's score as if the tokens after layer l were the last ones:
    through the final norm, pooling and head. The map holds the values of the patches as keys.

    layers: number of last layers, fewer where the model has fewer; null takes all. The authors' package takes the last
        two by default.
    reading: "model" pools the tokens of a layer as the model pools its last ones; "mean" takes the mean of all tokens
        before the norm, the class token among them, as the authors' package does for CLIP.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        needs="attention",
        identities=("over n layers it is the mean of the n maps of one layer",),
        degenerate=(
            "negative gradients are dropped: attention that would lower the similarity if it grew does not count",
            "it is a gradient alone: how strong the attention is does not count",
            "where the embedding is the class token, the gradient is zero outside that token's row, and the mean over "
            "queries only divides it",
        ),
    )

    layers: Count | None = None
    reading: Literal["model", "mean"] = "model"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        with differentiating(model):
            return layers_of(model, "LeGrad").explain(encoded, self._explain)

    def _explain(self, layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int]) -> RawMaps:
        first = 0 if self.layers is None else max(0, len(layers.steps) - self.layers)
        maps = []
        for tokens, attention in islice(layers.run(encoded.query.images[rows]), first, None):
            mean = self.reading == "mean"
            embeddings = layers.finish(layers.apply_norm(tokens.mean(dim=1))) if mean else layers.embed(tokens, size)
            total = score(layers.model.similarity, embeddings, encoded.terms, rows).sum()
            (gradient,) = gradients(total, [attention.weights])
            maps.append(layers.patches(gradient.relu().mean(dim=(1, 2)), size))
        return torch.stack(maps).mean(dim=0)
