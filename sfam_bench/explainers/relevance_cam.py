"""Relevance-CAM on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps, Weights
from sfam_bench.explainers.shared.forms import combine, differentiating
from sfam_bench.explainers.shared.products import before_l2
from sfam_bench.explainers.shared.relevance import Rule, Rules, relevance
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class RelevanceCAM(Checked):
    """sum_k (mean_ij R_k,ij) A_k, R the relevance at the cut; Lee et al., CVPR 2021, eq. 5 and 6, its start derived.

    Relevance starts at the embedding: that of a dimension is its share of the score, e_d e'_d / (|e||e'|) for cosine.
    This start is derived here; the paper starts at class scores. Relevance is then propagated to the cut through head
    and pooling, and with an early cut also through the layers before the pooling. The paper's code adds a bias to two
    sums of contributions; here it is added once.

    start: "signed" takes these shares; "positive" their positive part; "contrastive" treats each comparison of the
        margin as a class, as the paper does: the positive part, scaled to the sum 1 for the reference and to the sum -1
        over all negatives.
    rule: propagation rule of linear layers; "zplus" (alpha 1, beta 0) is the paper's.
    gamma: of the gamma rule.
    epsilon: added to the denominators.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "without a head under GAP it is SFAM over N (cosine)",
            "if no layer behind the cut has a bias, relevance sums at the cut to what it sums to at its start",
            "the signed margin map is the positive's map minus the negative's",
        ),
        degenerate=(
            "the weight of a channel is its relevance, which grows with its activation: strong channels count twice",
            "under z+ the relevance of an output without a positive contribution is lost, as in depthwise convolutions",
            "negative Euclidean distance has no positive part: `positive` and `contrastive` raise an error",
        ),
    )

    start: Literal["signed", "positive", "contrastive"] = "signed"
    rule: Rule = "zplus"
    gamma: NotNegative = 0.25
    epsilon: Positive = 1e-6

    def rules(self) -> Rules:
        """The rules of every layer behind the cut."""
        return Rules(self.rule, self.gamma, self.epsilon)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return combine(self.weights(model, encoded), encoded.query.activations)

    def weights(self, model: SimilarityModel, encoded: Encoded) -> Weights:
        """Mean relevance of each channel."""
        initial = self.initial_relevance(model, encoded)
        with differentiating(model):
            found = relevance(
                self.rules(),
                lambda a: before_l2(model, a),
                encoded.query.activations,
                lambda e: initial / torch.where(e == 0, 1, e),
            )
        return found.mean(dim=(2, 3))

    def initial_relevance(self, model: SimilarityModel, encoded: Encoded) -> Embeddings:
        """Relevance of each embedding dimension."""
        query = encoded.query.embeddings
        compared = list(comparisons(model.similarity, query, encoded.terms))
        splits = [model.similarity.split(query, reference.embeddings) for _, reference in compared]
        slopes = [slope for slope, _ in compared]
        if self.start != "signed" and model.similarity.name == "negative_euclidean":
            raise UserError(
                f"RelevanceCAM's start={self.start} needs a positive part, and a negative distance has none: use "
                f"start=signed"
            )
        if self.start != "contrastive":
            total = torch.stack([slope * split for slope, split in zip(slopes, splits, strict=True)]).sum(dim=0)
            return total.clamp_min(0) if self.start == "positive" else total
        negatives = torch.stack([slope < 0 for slope in slopes]).sum(dim=0)
        if not negatives.any():
            raise UserError("RelevanceCAM's start=contrastive needs a negative: use target=margin")
        total = torch.zeros_like(splits[0])
        for slope, split in zip(slopes, splits, strict=True):
            positive = split.clamp_min(0)
            share = positive / positive.sum(dim=1, keepdim=True).clamp_min(torch.finfo(split.dtype).tiny)
            total = total + torch.where(slope > 0, share, -share / negatives)
        return total
