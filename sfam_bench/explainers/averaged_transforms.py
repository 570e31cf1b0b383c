"""Averaged transforms: gradients of the scores with mixtures of both images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Images, RawMaps
from sfam_bench.engine.series import Masked, SoftMasks
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class AveragedTransforms(Checked):
    """max_c |x_c mean_n ds(x, m_n)/dx_c|, m_n from x to y; Sammani, Joukovsky, Deligiannis, TIP 2023.

    The mixtures are m_n = (1 - a) x + a y with a = n / (steps + 1): neither image itself is among them. The authors
    mix an image with its own transform, y. They add noise to the mixtures and use guided backpropagation as options
    of their code, which are left out, and take the other image's gradient at the mixtures, where here it is the map of
    the swapped pair.

    steps: number of mixtures; the authors' step of 0.1 makes 9.
    """

    card: ClassVar[Card] = Card(
        one_image=True,
        signed=False,
        identities=(
            "for an embedding that is linear in the pixels and the dot product it is the magnitude of input times "
            "gradient with the mean of both images as reference",
        ),
        degenerate=(
            "pixels that lower the score count like pixels that raise it",
            "images that are not aligned make mixtures that resemble no image",
        ),
    )

    steps: Count = 9

    def forwards(self, query: Side) -> int:
        """One for each mixture with a reference, of which a margin has two, and one to differentiate."""
        return 2 * self.steps + 1

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        others = [
            (slope[:, 0], self._mixtures(encoded, reference.side_for("averaged_transforms").images))
            for slope, reference in comparisons(model.similarity, encoded.query.embeddings, encoded.terms)
        ]

        def mean_score(x: Tensor, rows: Tensor) -> Tensor:
            embeddings, total = model(x), x.new_zeros(len(x))
            for slope, mixed in others:
                for row in mixed[rows].unbind(dim=1):
                    total = total + slope[rows] * model.similarity(embeddings, row) / self.steps
            return total

        with differentiating(model):
            found = [
                derivative(lambda x, some=some: mean_score(x, some), images[some])  # type: ignore[misc]
                for some in chunks(len(images), images)
            ]
        return (images * torch.cat(found)).abs().amax(dim=1)

    def _mixtures(self, encoded: Encoded, references: Images) -> Tensor:
        """Embeddings of the mixtures of each pair, (batch, steps, dims)."""
        keep = 1 - torch.arange(1, self.steps + 1, dtype=references.dtype) / (self.steps + 1)

        def masks(first: int, last: int) -> SoftMasks:
            return keep[first:last, None, None].expand(-1, *references.shape[-2:]).to(references)

        series = zip(encoded.query.images, references, strict=True)
        passes = encoded.passes((k, Masked(x, y, masks, self.steps)) for k, (x, y) in enumerate(series))
        return torch.stack([embeddings.detach().clone().to(references) for _, embeddings in passes])
