"""EmbeddingCAM: Grad-CAM towards the mean of a training class."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded
from sfam_bench.core.similarity import Gallery, unit
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps
from sfam_bench.explainers.shared.forms import combine, derivative, differentiating
from sfam_bench.explainers.shared.prepare import Axes, Bank, Preparable, State
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class EmbeddingCAM(Preparable):
    """Grad-CAM on <e, m / |m|>, e the embedding before L2, m a class mean; Bachhawat, arXiv 2402.00909, eq. 9 to 12.

    The paper uses the mean of the image's own class. Classes of a zero-shot test set have no training images, and
    labels of test images are not used: here it is the nearest class mean, so that a training class stands for the
    reference. The margin target uses the difference of the forms.

    proxies: which embedding selects the nearest class mean; "nearest_to_query" ignores the reference and the target.
    relu: drop the negative part of the map, as the paper does.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        needs="training",
        identities=(
            "it is Grad-CAM on the un-normalised dot product with the class mean, scaled to length one, as reference",
            "for a classifier whose class means are one-hot it is Grad-CAM on the logit",
        ),
        degenerate=("two references with the same nearest class mean have the same map",),
    )
    axes: ClassVar[Axes] = {"means": ("classes", "dims")}

    proxies: Literal["nearest_to_reference", "nearest_to_query"] = "nearest_to_reference"
    relu: bool = True

    def compute_state(self, model: SimilarityModel, bank: Bank) -> State:
        return {"means": class_means(bank)}

    def maps(self, model: SimilarityModel, encoded: Encoded, state: State) -> RawMaps:
        embedder, activations = model.embedder, encoded.query.activations
        towards = self.towards(model, encoded, state["means"])
        with differentiating(model):
            towards = towards.clone()  # a caller may be in inference mode
            gradient = derivative(lambda a: (embedder.project(embedder.pool(a)) * towards).sum(dim=1), activations)
        return combine(gradient.mean(dim=(2, 3)), activations, self.relu)

    def towards(self, model: SimilarityModel, encoded: Encoded, means: Gallery) -> Embeddings:
        """The coefficients of the query's embedding in the target: sum over references of slope * proxy."""
        proxies = unit(means)
        if self.proxies == "nearest_to_query":
            return proxies[model.similarity.matrix(encoded.query.embeddings, means).argmax(dim=1)]
        query = encoded.query.embeddings
        total = torch.zeros_like(query)
        for slope, reference in comparisons(model.similarity, query, encoded.terms):
            total = total + slope * proxies[model.similarity.matrix(reference.embeddings, means).argmax(dim=1)]
        return total


def class_means(bank: Bank) -> Gallery:
    """The mean embedding of each class of the training images, (classes, dims)."""
    labels, rows = bank.labels.unique(return_inverse=True)
    sums = bank.embeddings.new_zeros(len(labels), bank.embeddings.shape[1]).index_add(0, rows, bank.embeddings)
    return sums / rows.bincount()[:, None]
