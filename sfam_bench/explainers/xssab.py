"""xSSAB: gradients of the dimensions that argue for the pair, minus those of the dimensions that argue against it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Finite
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class XSSAB(Checked):
    """mean |d/dx sum_{k in P} c_k| - mean |d/dx sum_{k not in P} c_k|; Huber et al., WACV 2024 (arXiv 2304.13409).

    c_k is the share of embedding dimension k in the score, and P are the dimensions with at least its even share of the
    threshold, c_k >= t / D. Magnitudes are averaged over colours. Positive values argue for accepting the pair,
    negative ones for rejecting it.

    threshold: t, the score from which a pair is accepted; the authors' is the one of equal errors.
    """

    card: ClassVar[Card] = Card(
        identities=("with a threshold below all shares it is the mean magnitude of the score's gradient over colours",),
        degenerate=(
            "gradients count by magnitude: of the pixels in a group, those that lower its sum count like the others",
            "for negative Euclidean distance all shares are negative, and so is the map without a threshold",
        ),
    )

    threshold: Finite = 0.0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        compared = [
            (slope, reference.embeddings.clone())
            for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms)
        ]

        def shares(embeddings: Embeddings, rows: Tensor) -> Embeddings:
            return sum(
                (slope[rows] * model.similarity.split(embeddings, other[rows]) for slope, other in compared),
                start=torch.zeros_like(embeddings),
            )

        images, maps = query.images, []
        for some in chunks(len(images), images):
            own = shares(query.embeddings[some], some)
            accept = (own >= self.threshold / own.shape[1]).to(own)
            with differentiating(model):
                sizes = [
                    derivative(lambda x, some=some, group=group: shares(model(x), some) * group, images[some])  # type: ignore[misc]
                    .abs()
                    .mean(dim=1)
                    for group in (accept.clone(), 1 - accept)
                ]
            maps.append(sizes[0] - sizes[1])
        return torch.cat(maps)
