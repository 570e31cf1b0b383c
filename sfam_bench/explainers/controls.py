"""What every explainer must beat: maps that ignore the reference, the query, or both."""

from dataclasses import dataclass

import torch

from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.records import Encoded, PairBatch, pair_seed
from sfam_bench.types import RawMaps


@dataclass(frozen=True)
class LaFAM:
    """The channel mean of the query's activations: saliency without a reference; Karjauv, Albayrak, 2024."""

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return encoded.query.activations.mean(dim=1)


@dataclass(frozen=True)
class Centre:
    """A Gaussian around the centre of the image; `sigma` as a share of each side."""

    sigma: float = 0.25

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        rows, cols = (
            torch.exp(-(((torch.arange(n, device=activations.device) + 0.5) / n - 0.5) ** 2) / (2 * self.sigma**2))
            for n in activations.shape[-2:]
        )
        return torch.outer(rows, cols).to(activations.dtype).expand(len(activations), -1, -1)


@dataclass(frozen=True)
class Chance:
    """Uniform noise at the resolution of the activations, seeded by the pair so that batches do not matter."""

    seed: int = 0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        noise = [
            torch.rand(activations.shape[-2:], generator=torch.Generator().manual_seed(pair_seed(self.seed, *pair)))
            for pair in zip(pairs.query_ids, pairs.reference_ids, strict=True)
        ]
        return torch.stack(noise).to(activations)
