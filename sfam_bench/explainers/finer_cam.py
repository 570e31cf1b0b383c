"""Finer-CAM: Grad-CAM on the score minus the scores of the most similar training classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, NotNegative
from sfam_bench.core.records import Encoded
from sfam_bench.core.targets import score
from sfam_bench.core.types import Embeddings, RawMaps, Scores
from sfam_bench.explainers.embedding_cam import class_means
from sfam_bench.explainers.shared.forms import combine, derivative, differentiating
from sfam_bench.explainers.shared.prepare import Axes, Bank, Preparable, State
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class FinerCAM(Preparable):
    """Grad-CAM on sum_i p_i (s - alpha s_i), s_i the scores with similar classes; Zhang et al., CVPR 2025.

    The similar classes are the training classes whose mean has the score closest to that of the pair, p_i the softmax
    of their scores. In the paper s and s_i are logits, the reference being the class that is explained.

    alpha: how much of the scores with similar classes is subtracted.
    classes: the number of similar classes; all where there are fewer.
    relu: drop the negative part of the map, as the paper does.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        margin=False,
        needs="training",
        identities=(
            "with alpha 0 it is Grad-CAM",
            "with one class and alpha 1 it is Grad-CAM on the margin whose negative is the class mean",
        ),
        degenerate=("what the reference shares with the similar classes is subtracted from the map",),
    )
    axes: ClassVar[Axes] = {"means": ("classes", "dims")}

    alpha: NotNegative = 1.0
    classes: Count = 3
    relu: bool = True

    def compute_state(self, model: SimilarityModel, bank: Bank) -> State:
        return {"means": class_means(bank)}

    def maps(self, model: SimilarityModel, encoded: Encoded, state: State) -> RawMaps:
        if len(encoded.terms) > 1 or encoded.terms[0].rivals:
            raise UserError("finer_cam has no map of a margin, which has its own similar class: use grad_cam")
        similarity, query = model.similarity, encoded.query
        means = state["means"]
        full = score(similarity, query.embeddings, encoded.terms)
        apart = (similarity.matrix(query.embeddings, means) - full[:, None]).abs()
        similar = means[apart.topk(min(self.classes, len(means)), dim=1, largest=False).indices]

        def target(embeddings: Embeddings) -> Scores:
            others = torch.stack([similarity(embeddings, mean) for mean in similar.clone().unbind(dim=1)], dim=1)
            whole = score(similarity, embeddings, encoded.terms)
            return (others.softmax(dim=1) * (whole[:, None] - self.alpha * others)).sum(dim=1)

        with differentiating(model):
            gradient = derivative(lambda a: target(model.embedder(a)), query.activations)
        return combine(gradient.mean(dim=(2, 3)), query.activations, self.relu)
