"""Grad-CAM weights of the triplet loss, computed for training images and transferred to the query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, NotNegative
from sfam_bench.core.records import Encoded, pair_seed
from sfam_bench.core.similarity import NegativeEuclidean
from sfam_bench.core.stream import progress
from sfam_bench.core.types import Embeddings, Images, RawMaps, Weights
from sfam_bench.explainers.shared.forms import CHUNK, combine, derivative, differentiating
from sfam_bench.explainers.shared.prepare import Axes, Bank, Preparable, State
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class WeightTransfer(Preparable):
    """sum_k w_k A_k, w = -mean_ij dL/dA of the nearest training image; Chen et al., WACV 2020, reconstructed.

    L is the triplet loss max(0, |e - p|^2 - |e - n|^2 + margin), averaged over triplets with a loss whose anchor e is
    the training image; p and n are held constant. No backward pass at test time. From the abstract and other authors'
    notes; reconstructed are the sign (of minus the loss, so that greater is more alike), the margin, and the sampling:
    uniform over all triplets with a loss, without repetition. Images without such a triplet have no weights.

    It explains the query's position among the classes, not the pair: the map is the same for any reference and target.

    triplets: number for each image, or all where there are fewer.
    margin: of the loss, in squared distances of the model's embeddings, whatever its similarity.
    neighbours: number of nearest training images whose weights are averaged.
    channels: number of the greatest weights that are kept, reportedly 50 in the paper; null keeps all.
    seed: of the triplets, with the image's id.
    relu: drop the negative part of the map.
    """

    card: ClassVar[Card] = Card(
        reads_reference=False,
        signed=False,
        needs="training",
        identities=(
            "for a training image with one triplet and neighbours=1 it is Grad-CAM on the margin target of negative "
            "squared distances",
        ),
        degenerate=("a query far from all training images gets weights of unrelated images",),
    )
    axes: ClassVar[Axes] = {
        "embeddings": ("images", "dims"),
        "weights": ("images", "channels"),
        "left_out": ("left_out",),
    }

    triplets: Count = 50
    margin: NotNegative = 0.2
    neighbours: Count = 1
    channels: Count | None = None
    seed: Natural = 0
    relu: bool = True

    def compute_state(self, model: SimilarityModel, bank: Bank) -> State:
        towards, active = self.directions(bank)
        kept = active.nonzero()[:, 0]
        if not len(kept):
            raise UserError(
                f"weight_transfer: no triplet of the {len(bank.image_ids)} training images has a loss at margin="
                f"{self.margin}: there must be two classes and two images of one, and the margin may be too small"
            )
        weights = [compute_weights(model, images, towards[rows]) for rows, images in bank.batches(kept.tolist())]
        left_out = (~active).nonzero()[:, 0]
        return {"embeddings": bank.embeddings[kept], "weights": torch.cat(weights), "left_out": left_out}

    def maps(self, model: SimilarityModel, encoded: Encoded, state: State) -> RawMaps:
        scores = model.similarity.matrix(encoded.query.embeddings, state["embeddings"])
        nearest = scores.argsort(dim=1, descending=True, stable=True)[:, : self.neighbours]
        weights = state["weights"][nearest].mean(dim=1)
        if self.channels is not None:
            places = weights.argsort(dim=1, descending=True, stable=True)[:, self.channels :]
            weights = weights.scatter(1, places, 0.0)
        return combine(weights, encoded.query.activations, self.relu)

    def directions(self, bank: Bank) -> tuple[Embeddings, Bool[Tensor, " items"]]:
        """-dL/de of each training image as the anchor, averaged over its triplets, and whether it has any."""
        embeddings, labels = bank.embeddings, bank.labels.numpy()
        towards = torch.zeros_like(embeddings)
        active = torch.zeros(len(labels), dtype=torch.bool)
        rows = max(1, CHUNK // (len(labels) * embeddings.itemsize))
        for start in progress(range(0, len(labels), rows), "triplets", -(-len(labels) // rows), "chunk"):
            distances = -NegativeEuclidean().matrix(embeddings[start : start + rows], embeddings)
            for anchor, row in enumerate(distances.numpy(), start):
                random = np.random.default_rng(pair_seed(self.seed, bank.image_ids[anchor], "triplets"))
                positives, negatives = draw_triplets(row, labels, anchor, self.margin, self.triplets, random)
                if len(positives):
                    active[anchor] = True
                    towards[anchor] = 2 * (embeddings[positives].mean(dim=0) - embeddings[negatives].mean(dim=0))
        return towards, active


def draw_triplets(
    distances: np.ndarray,
    labels: np.ndarray,
    anchor: int,
    margin: float,
    count: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of positives and negatives of `count` different triplets with a loss, or of all where they are fewer.

    A positive has a loss with each negative that is nearer than its own distance plus the margin. These are the first
    of the sorted negatives, so that triplets can be numbered without listing them.
    """
    same = labels == labels[anchor]
    positives = np.setdiff1d(same.nonzero()[0], anchor)
    reach = distances[positives].max(initial=-np.inf) + margin  # only the negatives within it are sorted
    negatives = (~same & (distances < reach)).nonzero()[0]
    negatives = negatives[distances[negatives].argsort(kind="stable")]
    losing = distances[negatives].searchsorted(distances[positives] + margin, side="left")
    ends = losing.cumsum()
    total = int(losing.sum())
    numbers = np.arange(total) if total <= count else random.choice(total, count, replace=False)
    places = ends.searchsorted(numbers, side="right")
    return positives[places], negatives[numbers - (ends - losing)[places]]


def compute_weights(model: SimilarityModel, images: Images, towards: Embeddings) -> Weights:
    """mean_ij d<towards, e>/dA of training images."""
    activations, towards = model.encode(images).activations, towards.to(model.device)
    with differentiating(model):
        towards = towards.clone()  # a caller may be in inference mode
        gradient = derivative(lambda a: (model.embedder(a) * towards).sum(dim=1), activations)
    return gradient.mean(dim=(2, 3)).cpu()
