"""SmoothGrad on an embedding target."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, NotNegative
from sfam_bench.core.records import Encoded, PairBatch, pair_seed
from sfam_bench.core.types import Images, RawMaps
from sfam_bench.explainers.shared.pixels import mean_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class SmoothGrad(Checked):
    """sum_c |mean_n ds/dx_c (x + noise_n)|, noise_n Gaussian; Smilkov et al., arXiv 1706.03825, 2017.

    Noisy pixels may leave [0, 1], as in the paper.

    samples: noisy images for each pair, each with a forward and a backward pass.
    noise: standard deviation as a share of the range of each image, its greatest minus its least pixel.
    times_input: multiply by the image.
    magnitude: take the absolute value in each colour before the sum, as the paper does for photographs; else the map is
        signed, and without `times_input` shows only whether a brighter pixel would raise the score.
    seed: of the noise, together with the pair.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        identities=("without noise, with the input and signs, it is input x gradient",),
        degenerate=("by magnitude alone pixels that lower the score count like pixels that raise it",),
    )

    samples: Count = 25
    noise: NotNegative = 0.15
    times_input: bool = False
    magnitude: bool = True
    seed: Natural = 0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        weights = images.new_full((self.samples,), 1 / self.samples)
        values = mean_gradient(
            model, encoded, weights, lambda pair, number: self.noisy_images(images, pairs, pair, number)
        )
        values = values * images if self.times_input else values
        return (values.abs() if self.magnitude else values).sum(dim=1)

    def noisy_images(self, images: Images, pairs: PairBatch, pair: Tensor, number: Tensor) -> Tensor:
        """The images of these pairs with these samples of noise."""
        noise = []
        for row, sample in zip(pair.tolist(), number.tolist(), strict=True):
            seed = pair_seed(self.seed, pairs.query_ids[row], pairs.reference_ids[row], str(sample))
            draw = torch.Generator().manual_seed(seed)
            noise.append(torch.randn(images.shape[1:], generator=draw, dtype=torch.float32))
        sigma = self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
        return images[pair] + sigma[pair][:, None, None, None] * torch.stack(noise).to(images)
