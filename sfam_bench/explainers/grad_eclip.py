"""Grad-ECLIP on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import score
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.attention import Attention, Layers, Rows, layers_of
from sfam_bench.explainers.shared.forms import differentiating, gradients
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class GradECLIP(Checked):
    """relu(sum_t lambda_ti <ds/do_t, v_i>), of the last attention; Zhao et al., ICML 2024 (arXiv 2502.18816).

    o_t is the attention's output for token t, v_i the value of patch i, lambda_ti the loosened attention: the cosine
    of query t and key i, scaled to [0, 1] over the patches. The paper's t is the class token, the only one with a
    gradient where the embedding is read from it; where patches are pooled, t runs over all of them [derived].

    The authors' code runs the last attention as a single head, which is another model; here it keeps its heads. Their
    code for CLIP also takes the cosine after the output projection; their code for a plain transformer and ours do not.

    spatial: "loosened" is the paper's; "attention" uses the softmax itself, which splits the first-order term
        sum_t <ds/do_t, o_t> over tokens; "none" leaves lambda out.
    heads: "merged" takes the cosine over the channels of all heads together, as the paper, "each" head by head.
    relu: drop the negative part of the map, as the paper does.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        needs="attention",
        identities=(
            "with spatial attention, unrectified and without prefix tokens, it sums to sum_t <ds/do_t, o_t>",
            "with one head, merged and each are the same",
        ),
        degenerate=(
            "it uses the last layer alone: what earlier layers moved between tokens is attributed to the token that "
            "holds it",
            "where all keys have the same cosine with a query, as on a single patch, lambda is 1",
        ),
    )

    spatial: Literal["loosened", "attention", "none"] = "loosened"
    heads: Literal["merged", "each"] = "merged"
    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        with differentiating(model):
            maps = layers_of(model, "Grad-ECLIP").explain(encoded, self._explain)
        return maps.relu() if self.relu else maps

    def _explain(self, layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int]) -> RawMaps:
        *_, (tokens, attention) = layers.run(encoded.query.images[rows])
        total = score(layers.model.similarity, layers.embed(tokens, size), encoded.terms, rows).sum()
        (gradient,) = gradients(total, [attention.output])
        with torch.no_grad():
            shares = gradient @ attention.values[:, :, layers.prefix :].transpose(-2, -1)
            return (shares * self._lambda(attention, layers.prefix)).sum(dim=(1, 2)).unflatten(1, size)

    def _lambda(self, attention: Attention, prefix: int) -> Float[Tensor, "batch heads tokens patches"]:
        if self.spatial == "attention":
            return attention.weights[..., prefix:]
        if self.spatial == "none":
            return torch.ones_like(attention.weights[:, :1, :, prefix:])
        queries, keys = attention.queries, attention.keys[:, :, prefix:]
        if self.heads == "merged":
            queries, keys = (found.transpose(1, 2).flatten(2)[:, None] for found in (queries, keys))
        return to_unit_interval(F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1))


def to_unit_interval(cosines: Float[Tensor, "*rest patches"]) -> Float[Tensor, "*rest patches"]:
    """Scaled to [0, 1] over the patches; 1 where they are all the same."""
    low, high = cosines.amin(dim=-1, keepdim=True), cosines.amax(dim=-1, keepdim=True)
    return torch.where(high == low, 1, (cosines - low) / torch.where(high == low, 1, high - low))
