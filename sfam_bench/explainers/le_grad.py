"""LeGrad on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import score
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.attention import Layers
from sfam_bench.explainers.shared.forms import differentiating, gradients
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class LeGrad(Checked):
    """mean over layers l, heads and queries of relu(ds_l/dA_l); Bousselham et al., ICCV 2025 (arXiv 2404.03214).

    A_l is the attention of layer l, and s_l the target's score as if the tokens after layer l were the last ones:
    through the final norm, pooling and head. The map is what it says of the patches as keys.

    layers: how many, from the last backwards, fewer where there are fewer; null takes all. The authors' package takes
        the last two unless told otherwise.
    reading: "model" pools the tokens of a layer as the model pools its last ones; "mean" takes the mean of all tokens
        before the norm, the class token among them, as the authors' package does for CLIP.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        needs="attention",
        identities=("over n layers it is the mean of the n maps of one layer",),
        degenerate=(
            "attention that would speak against the similarity if it grew is left out",
            "a gradient alone: where attention is already strong does not count",
            "read from the class token, the gradient is zero but for that token's own row, and the mean over queries "
            "only divides it",
        ),
    )

    layers: Count | None = None
    reading: Literal["model", "mean"] = "model"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        layers, query = Layers(model, "LeGrad"), encoded.query
        rows, cols = query.activations.shape[-2:]
        with differentiating(model):
            parts = layers.chunks(query.images, (rows, cols))
            return torch.cat([self._some(layers, encoded, some, (rows, cols)) for some in parts])

    def _some(self, layers: Layers, encoded: Encoded, some: Int[Tensor, " some"], size: tuple[int, int]) -> RawMaps:
        depth = len(layers.steps)
        first = 0 if self.layers is None else max(0, depth - self.layers)
        maps = []
        for index, (tokens, attention) in enumerate(layers.run(encoded.query.images[some])):
            if index < first:
                continue
            mean = self.reading == "mean"
            embeddings = layers.finish(layers.normed(tokens.mean(dim=1))) if mean else layers.embed(tokens, size)
            total = score(layers.model.similarity, embeddings, encoded.terms, some).sum()
            (gradient,) = gradients(total, [attention.weights])
            maps.append(layers.patches(gradient.relu().mean(dim=(1, 2)), size))
        return torch.stack(maps).mean(dim=0)
