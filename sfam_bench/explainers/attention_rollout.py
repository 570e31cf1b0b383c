"""Attention rollout."""

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.engine.modes import evaluating
from sfam_bench.explainers.shared.attention import Layers, Rows, layers_of
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class AttentionRollout(Checked):
    """a row of R_L ... R_1, R_l = (A_l + I) with rows that sum to one; Abnar, Zuidema, ACL 2020, section 3.

    A_l is the attention of layer l, its heads fused. The row is that of the class token where the embedding is read
    from it, and the mean of the patches' rows where patches are pooled, by any pooling. It
    ignores the reference: a comparison for the methods that explain transformers.

    fusion: of the heads; the mean is the paper's, and there R_l is (A_l + I) / 2.
    """

    card: ClassVar[Card] = Card(
        reads_reference=False,
        signed=False,
        needs="attention",
        identities=("without prefix tokens the map sums to one",),
        degenerate=(
            "it explains the query, not the pair, since it ignores the reference",
            "it uses attention weights alone: values, signs and MLPs are ignored",
            "uniform attention gives a constant map",
        ),
    )

    fusion: Literal["mean", "max", "min"] = "mean"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        with torch.inference_mode(False), torch.no_grad(), evaluating(model):
            return layers_of(model, "attention rollout").explain(encoded, self._explain)

    def _explain(self, layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int]) -> RawMaps:
        steps = (mix_residual(self._fuse(attention.weights)) for _, attention in layers.run(encoded.query.images[rows]))
        rolled = reduce(lambda product, step: step @ product, steps)
        row = rolled[:, 0] if layers.reads_class else rolled[:, layers.prefix :].mean(dim=1)
        return layers.patches(row, size)

    def _fuse(self, weights: Float[Tensor, "batch heads tokens tokens"]) -> Float[Tensor, "batch tokens tokens"]:
        if self.fusion == "mean":
            return weights.mean(dim=1)
        return weights.amax(dim=1) if self.fusion == "max" else weights.amin(dim=1)


def mix_residual(fused: Float[Tensor, "batch tokens tokens"]) -> Float[Tensor, "batch tokens tokens"]:
    """Attention plus the residual connection, each row normalised to sum to one."""
    both = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
    return both / both.sum(dim=-1, keepdim=True)
