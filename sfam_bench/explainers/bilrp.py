"""BiLRP on the product of two embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps
from sfam_bench.explainers.shared.forms import differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.products import before_l2, factor, product_shares
from sfam_bench.explainers.shared.relevance import Entry, Rule, Rules, relevance, totals
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class BiLRP(Checked):
    """sum_m R_i^(m)(x) sum_i' R_i'^(m)(y), R^(m) the relevance of dimension m; Eberle et al., TPAMI 2020, eq. 7.

    The paper takes one backward pass for each dimension and image. Relevance is linear in its start, so the map summed
    over the reference's positions follows exactly from one forward derivative of the reference (the total relevance of
    each dimension) and one backward pass of the query. It explains the product of the embeddings with their lengths
    held constant: cosine, dot, and the 2 <e, e'> of the negative squared Euclidean distance.

    layer: where relevance ends, summed over channels: at the pixels, or at the cut.
    rule: of convolutions; linear layers use epsilon, as the paper's projection does.
    gamma: the same for all convolutions; the paper's falls from 0.5 to 0 over the depth of VGG-16.
    epsilon: added to the denominators.
    pixels: rule of the first layer; "box" (the paper's) uses that pixels lie in [0, 1], "rule" is that of other layers.
    """

    card: ClassVar[Card] = Card(
        needs_images=True,
        identities=(
            "it is the sum over embedding dimensions of the products of both relevances",
            "at the cut, on the un-normalised dot product under GAP and a bias-free linear head, it is the similarity "
            "decomposition",
            "behind layers without bias it sums to the product of the embeddings over their lengths",
        ),
        degenerate=("where biases dominate an embedding, most of the score is attributed to no pixel",),
    )

    layer: Literal["cut", "image"] = "image"
    rule: Rule = "gamma"
    gamma: NotNegative = 0.25
    epsilon: Positive = 1e-6
    pixels: Literal["box", "rule"] = "box"

    def rules(self) -> Rules:
        """The rules of every layer but the first."""
        return Rules(self.rule, self.gamma, self.epsilon)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        with differentiating(model):
            function, entry = self.branch(model)
            own = before_l2(model, query.activations).detach()
            towards = torch.zeros_like(own)
            for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms):
                blend = reference.images_for("BiLRP")
                inputs, other = self.inputs(blend.side), before_l2(model, blend.side.activations).detach()
                rows = chunks(len(inputs), blend.side.images)
                total = torch.cat([totals(self.rules(), function, inputs[some], entry) for some in rows])
                parts = factor(model, own[blend.pairs], other[blend.rows]) * total[blend.rows]
                shares = product_shares(model, blend, reference.embeddings)
                towards = towards + slope * blend.add(parts, shares, len(own))
            found = [
                relevance(self.rules(), function, self.inputs(query)[some], lambda _, g=towards[some]: g, entry)  # type: ignore[misc]
                for some in chunks(len(own), query.images)
            ]
            return torch.cat(found).sum(dim=1)

    def branch(self, model: SimilarityModel) -> tuple[Callable[[Tensor], Embeddings], Entry]:
        """The function that relevance is propagated through, and where it ends."""
        if self.layer == "cut":
            return lambda a: before_l2(model, a), "inputs"
        return lambda x: before_l2(model, model.run_trunk(x)), "box" if self.pixels == "box" else "layer"

    def inputs(self, side: Side) -> Tensor:
        """The input of that function: activations or images."""
        return side.activations if self.layer == "cut" else side.images
