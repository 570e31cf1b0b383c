"""Attention rollout."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import Images, RawMaps
from sfam_bench.engine.modes import evaluating
from sfam_bench.explainers.shared.attention import Layers
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class AttentionRollout(Checked):
    """the read row of R_L ... R_1, R_l = (A_l + I) with rows of sum one; Abnar, Zuidema, ACL 2020, section 3.

    A_l is the attention of layer l, its heads fused. The row is that of the class token where it is the embedding, and
    the mean over the patches' rows where they are pooled, whatever pools them. A control for transformers.

    fusion: of the heads; the mean is the paper's, and there R_l is (A_l + I) / 2.
    """

    card: ClassVar[Card] = Card(
        reads_reference=False,
        signed=False,
        needs="attention",
        identities=("without prefix tokens the map sums to one",),
        degenerate=(
            "it explains the query and not the pair: a control here",
            "values, signs and MLPs do not count, only where attention goes",
            "uniform attention gives a constant map",
        ),
    )

    fusion: Literal["mean", "max", "min"] = "mean"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        layers, images = Layers(model, "attention rollout"), encoded.query.images
        rows, cols = encoded.query.activations.shape[-2:]
        with torch.inference_mode(False), torch.no_grad(), evaluating(model):
            parts = layers.chunks(images, (rows, cols))
            return torch.cat([self._some(layers, images[some], (rows, cols)) for some in parts])

    def _some(self, layers: Layers, images: Images, size: tuple[int, int]) -> RawMaps:
        rolled = None
        for _, attention in layers.run(images):
            step = mix_residual(self._fused(attention.weights))
            rolled = step if rolled is None else step @ rolled
        assert rolled is not None  # a transformer has blocks
        read = rolled[:, 0] if layers.reads_class else rolled[:, layers.prefix :].mean(dim=1)
        return layers.patches(read, size)

    def _fused(self, weights: Float[Tensor, "batch heads tokens tokens"]) -> Float[Tensor, "batch tokens tokens"]:
        if self.fusion == "mean":
            return weights.mean(dim=1)
        return weights.amax(dim=1) if self.fusion == "max" else weights.amin(dim=1)


def mix_residual(fused: Float[Tensor, "batch tokens tokens"]) -> Float[Tensor, "batch tokens tokens"]:
    """Attention and the residual connection beside it, with rows of sum one."""
    both = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
    return both / both.sum(dim=-1, keepdim=True)
