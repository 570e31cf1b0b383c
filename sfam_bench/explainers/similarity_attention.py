"""Similarity attention: Grad-CAM on a weighted sum of the embedding."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import ProductForm, unit
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps, Scores
from sfam_bench.explainers.shared.forms import combine, derivative, differentiating
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class SimilarityAttention(Checked):
    """Grad-CAM on <w, e>, w = (1 - |e - p|) |e - n|; Zheng et al., IJCAI 2022 (arXiv 1911.07381), reconstructed.

    From a re-implementation of the triplet model, p the positive and n the negative, taken dimension by dimension. For
    a pair w is its first factor [derived]. Embeddings have length one where the score is of unit vectors. The later
    paper on similarity models (arXiv 2008.06035) could not be read.

    weights: "differentiated" lets the gradient run through w too, as the re-implementation does; "constant" does not.
    relu: drop the negative part of the map, as the paper does.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=(
            "with constant weights, an image with itself has Grad-CAM on the sum of its embedding",
            "a negative that equals the query has a map of zeros",
        ),
        degenerate=(
            "dimensions that are 0 in both images have the full weight, but no part in <w, e>",
            "in embeddings of many dimensions all differences are small: w is nearly 1, and the map nearly blind",
        ),
    )

    weights: Literal["differentiated", "constant"] = "differentiated"
    relu: bool = True

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        with differentiating(model):
            gradient = derivative(lambda a: self.sample_score(model, model.embedder(a), encoded), activations)
        return combine(gradient.mean(dim=(2, 3)), activations, self.relu)

    def sample_score(self, model: SimilarityModel, embeddings: Embeddings, encoded: Encoded) -> Scores:
        """<w, e> of changed embeddings of the queries."""
        by_length = isinstance(model.similarity, ProductForm) and model.similarity.by_length
        scaled = unit(embeddings) if by_length else embeddings
        held = scaled if self.weights == "differentiated" else scaled.detach()
        weights = torch.ones_like(scaled)
        for slope, reference in comparisons(model.similarity, encoded.query.embeddings, encoded.terms):
            other = unit(reference.embeddings) if by_length else reference.embeddings
            apart = (held - other.clone()).abs()
            weights = weights * torch.where(slope > 0, 1 - apart, apart)
        return (weights * scaled).sum(dim=1)
