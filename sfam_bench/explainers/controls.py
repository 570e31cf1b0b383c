"""Negative controls: maps that ignore the reference, the query, or both."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Natural, Positive
from sfam_bench.core.records import Encoded, PairBatch, pair_seed
from sfam_bench.core.types import RawMaps
from sfam_bench.models.similarity_model import SimilarityModel

GREY = (0.299, 0.587, 0.114)  # Rec. 601 luma
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@dataclass(frozen=True)
class LaFAM:
    """mean_k A_k of the query, saliency without a reference; Karjauv, Albayrak, arXiv 2024."""

    card: ClassVar[Card] = Card(
        control=True,
        reads_reference=False,
        degenerate=("strong activations need not contribute to the score: it explains the object, not the pair",),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return encoded.query.activations.mean(dim=1)


@dataclass(frozen=True)
class Centre(Checked):
    """exp(-|x - c|^2 / (2 sigma^2)) around the centre c of the image; a control, of no paper.

    sigma: as a share of each side.
    """

    card: ClassVar[Card] = Card(
        control=True,
        reads_reference=False,
        signed=False,
        degenerate=("it reads neither image; objects are often in the centre of a photo",),
    )

    sigma: Positive = 0.25

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        rows, cols = (
            torch.exp(-(((torch.arange(n, device=activations.device) + 0.5) / n - 0.5) ** 2) / (2 * self.sigma**2))
            for n in activations.shape[-2:]
        )
        return torch.outer(rows, cols).to(activations.dtype).expand(len(activations), -1, -1)


@dataclass(frozen=True)
class Chance(Checked):
    """Uniform noise at the resolution of the activations; a control, of no paper.

    Seeded by the ids of the pair, so that it does not depend on batches; it changes with the reference's id, not with
    its content.

    seed: of the noise, with both ids of the pair.
    """

    card: ClassVar[Card] = Card(control=True, signed=False, degenerate=("it reads neither image, only their ids",))

    seed: Natural = 0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        activations = encoded.query.activations
        draws = (
            torch.Generator().manual_seed(pair_seed(self.seed, *pair))
            for pair in zip(pairs.query_ids, pairs.reference_ids, strict=True)
        )
        noise = [torch.rand(activations.shape[-2:], generator=draw, dtype=torch.float32) for draw in draws]
        return torch.stack(noise).to(activations)


@dataclass(frozen=True)
class Edges:
    """Length of the Sobel gradient of the grey query, at the resolution of the image; a control, of no paper.

    It needs no model. Adebayo et al., NeurIPS 2018, show that saliency maps can resemble edges.
    """

    card: ClassVar[Card] = Card(
        control=True,
        reads_reference=False,
        signed=False,
        identities=("it is scipy.ndimage.sobel along both axes, at its default borders",),
        degenerate=("an image of one colour has no edges",),
    )

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        grey = torch.einsum("bkij,k->bij", images, images.new_tensor(GREY))[:, None]
        across = images.new_tensor(SOBEL)
        filters = torch.stack([across, across.T])[:, None]
        return F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters).square().sum(dim=1).sqrt()
