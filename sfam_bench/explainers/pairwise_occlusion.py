"""Pairwise occlusion: random rectangles in both images at once."""

from dataclasses import dataclass
from math import exp, log
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, Positive, Share
from sfam_bench.core.records import Encoded, PairBatch, Side, pair_seed
from sfam_bench.core.similarity import norm, unit
from sfam_bench.core.targets import score
from sfam_bench.core.types import Embeddings, Image, RawMaps
from sfam_bench.engine.modes import evaluating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.points import only_reference
from sfam_bench.explainers.shared.products import before_l2
from sfam_bench.models.similarity_model import SimilarityModel

TRIES = 10  # of a rectangle that fits into the image, as in torchvision's RandomErasing


@dataclass(frozen=True)
class PairwiseOcclusion(Checked):
    """sum_n [|e_n| < |e'_n|] softmax_n(s - s_n) hidden_n; Sammani, Joukovsky, Deligiannis, TIP 2023.

    A random rectangle is hidden in both images of the pair. The drop of the score, scaled by a softmax over all draws,
    is credited to the rectangle of the image whose embedding, before L2, became the shorter. The rectangle of an image
    depends on both ids, so that the swapped pair has the same draws, as in the authors' code.

    samples: rectangles for each image.
    smallest, largest: limits of the share of the image that is hidden.
    aspect: rows over columns of a rectangle lie between 1 and it, or between it and 1.
    temperature: of the softmax; the paper's is 1, which on bounded scores makes it nearly flat.
    seed: of the rectangles, together with both ids.
    baseline: replaces hidden pixels; the authors' code has zeros.
    """

    card: ClassVar[Card] = Card(
        one_image=True,
        signed=False,
        margin=False,
        identities=("what is credited to both images of a pair sums to one",),
        degenerate=(
            "with a flat softmax the map shows how often hiding a pixel made the embedding the shorter of the two",
        ),
    )

    samples: Count = 100
    smallest: Share = 0.1
    largest: Share = 0.3
    aspect: Positive = 1.5
    temperature: Positive = 1.0
    seed: Natural = 0
    baseline: BaselineName = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise UserError(f"PairwiseOcclusion.smallest is {self.smallest}: choose at most largest, {self.largest}")

    def forwards(self, query: Side) -> int:
        """A pass of both images for each draw."""
        return 2 * self.samples

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return torch.stack([hidden.sum(dim=0) for hidden in self.credited(model, encoded, pairs)])

    def credited(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> list[Tensor]:
        """For each pair the hidden rectangles, (samples, rows, cols), each with what is credited to the query."""
        with torch.no_grad(), evaluating(model):
            return [self._credit(model, encoded, pairs, row) for row in range(len(pairs.query_ids))]

    def _credit(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch, row: int) -> Tensor:
        ids = pairs.query_ids[row], pairs.reference_ids[row]
        hidden, embeddings = zip(
            *(
                self._occlude(model, side.images[row], *names)
                for side, names in ((encoded.query, ids), (only_reference(encoded), ids[::-1]))
            ),
            strict=True,
        )
        scaled = [unit(e) if model.embedder.normalise else e for e in embeddings]
        at = torch.tensor([row], device=scaled[0].device)
        full = score(model.similarity, encoded.query.embeddings[at], encoded.terms, at)
        shares = ((full - model.similarity(*scaled)) / self.temperature).softmax(dim=0)
        shorter = (norm(embeddings[0]) < norm(embeddings[1]))[:, 0]
        return hidden[0] * torch.where(shorter, shares, 0)[:, None, None]

    def _occlude(self, model: SimilarityModel, image: Image, own: str, other: str) -> tuple[Tensor, Embeddings]:
        """The rectangles of one image, and its embeddings before L2 behind each."""
        rows, cols = image.shape[-2:]
        draw = torch.Generator().manual_seed(pair_seed(self.seed, own, other, "rectangles"))
        hidden = torch.stack([self.rectangle(rows, cols, draw) for _ in range(self.samples)]).to(image.device)
        behind = BASELINES[self.baseline](image[None])
        parts = chunks(self.samples, image[None])
        found = [before_l2(model, model.run_trunk(torch.where(hidden[some, None], behind, image))) for some in parts]
        return hidden, torch.cat(found)

    def rectangle(self, rows: int, cols: int, draw: torch.Generator) -> Bool[Tensor, "rows cols"]:
        """Where one random rectangle hides the image; nowhere if none of TRIES fits."""
        hidden = torch.zeros(rows, cols, dtype=torch.bool)
        for _ in range(TRIES):
            area, shape, down, right = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
            area = rows * cols * (self.smallest + area * (self.largest - self.smallest))
            ratio = exp(shape * log(self.aspect))
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if height < rows and width < cols:
                top, left = int(down * (rows - height + 1)), int(right * (cols - width + 1))
                hidden[top : top + height, left : left + width] = True
                return hidden
        return hidden
