"""The map of DAAM: contributions of embedding dimensions sent back to the activations, or to each attention."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps
from sfam_bench.explainers.shared.attention import (
    Attention,
    Layers,
    Rows,
    has_tokens,
    layers_of,
    record_attention,
)
from sfam_bench.explainers.shared.forms import channel_form, combine, differentiating, gradients
from sfam_bench.explainers.shared.products import before_l2
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class DAAM(Checked):
    """sum_l scale(relu(sum_d a_lj v_ljd do_ld)), do = d<c, e>/do; Liao et al., arXiv 2503.14640, self-supervised.

    c holds the share of each embedding dimension in the similarity, scaled to [0, 1], and <c, e> is differentiated with
    the embedding before L2. In block l, a_lj is the attention of the class token to patch j, v_lj its value and do_l
    the gradient of the attention's output at the class token. Where patches are pooled, the sum also runs over the
    patches in place of the class token [derived]. A network whose activations are a grid and no tokens (convolutions;
    Swin) has the map sum_k w_k A_k at the cut, with w the gradient of <c, e> by the pooled channels.

    The authors average the shares over the neighbours of the predicted class in a memory bank; here the reference
    stands for them. Their last step, a sigmoid for display, changes no order and is left out.

    blocks: the blocks of a transformer that are summed: "all" of them or the "last".
    scale: how the map of each block is scaled: "minmax" to [0, 1], as in the authors' code, or "none".
    """

    card: ClassVar[Card] = Card(
        identities=(
            "for a convolutional network without a head it is FAM",
            "of the last block, unscaled and read from the class token, it is Grad-ECLIP with its plain attention on "
            "the target <c, e>",
        ),
        degenerate=(
            "the least share counts 0 and all others are positive: dimensions that argue against the pair count for it",
            "where all shares are equal they all count 1",
        ),
    )

    blocks: Literal["all", "last"] = "all"
    scale: Literal["minmax", "none"] = "minmax"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        towards = contribution_weights(model, encoded)
        if not has_tokens(model):
            return combine(channel_form(model, encoded.query, towards)[0], encoded.query.activations)

        def make(layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int]) -> RawMaps:
            return self._explain(layers, encoded, rows, size, towards[rows])

        with differentiating(model):
            return layers_of(model, "DAAM").explain(encoded, make)

    def _explain(
        self, layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int], towards: Embeddings
    ) -> RawMaps:
        model = layers.model
        with record_attention(model) as recorded:
            embeddings = before_l2(model, model.run_trunk(encoded.query.images[rows]))
        tokens = layers.prefix + size[0] * size[1]
        if len(recorded) != len(layers.steps) or any(one.weights.shape[-1] != tokens for one in recorded):
            raise UserError(
                f"DAAM needs one attention over all tokens in each of {len(layers.steps)} blocks, and {len(recorded)} "
                "are known: use another transformer, such as timm's vit_* or deit*"
            )
        total = (embeddings * towards.clone()).sum()
        found = gradients(total, [attention.output for attention in recorded])
        maps = torch.zeros(len(rows), *size).to(towards)
        chosen = list(zip(recorded, found, strict=True))[0 if self.blocks == "all" else -1 :]
        for attention, gradient in chosen:
            with torch.no_grad():
                block = layers.patches(attended(attention, gradient, layers), size).relu()
                maps = maps + (to_unit(block.flatten(1)).view_as(block) if self.scale == "minmax" else block)
        return maps


def attended(attention: Attention, gradient: torch.Tensor, layers: Layers) -> torch.Tensor:
    """For each token j, sum over heads and reading tokens t of a_tj <v_j, gradient_t>."""
    read = slice(0, 1) if layers.reads_class else slice(layers.prefix, None)
    products = gradient[:, :, read] @ attention.values.transpose(-2, -1)
    return (attention.weights[:, :, read] * products).sum(dim=(1, 2))


def contribution_weights(model: SimilarityModel, encoded: Encoded) -> Embeddings:
    """The share of each embedding dimension in the target, scaled to [0, 1]; ones where all are equal."""
    query, shares = encoded.query.embeddings, torch.zeros_like(encoded.query.embeddings)
    for slope, reference in comparisons(model.similarity, query, encoded.terms):
        shares = shares + slope * model.similarity.split(query, reference.embeddings)
    return to_unit(shares, flat=1.0)


def to_unit(rows: torch.Tensor, flat: float = 0.0) -> torch.Tensor:
    """Each row scaled to [0, 1]; `flat` where it is constant."""
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    return torch.where(high > low, (rows - low) / torch.where(high > low, high - low, 1), flat)
