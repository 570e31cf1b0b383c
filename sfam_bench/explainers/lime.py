"""LIME on the patches of the query."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import Ridge
from torch import Tensor

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch, Side, pair_seed
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.kernel_shap import Coalitions, Members, Values, patch_of
from sfam_bench.explainers.shared.masking import scores_behind
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class LIME(Checked):
    """argmin_phi sum_S w_S (v(S) - b - sum_S phi)^2 + r |phi|^2, S patches kept; Ribeiro, Singh, Guestrin, KDD 2016.

    w_S = exp(-d^2 / width^2)^0.5, d the cosine distance of S from the whole image, as in the authors' package, and v(S)
    the score with the other patches replaced. The package segments the image into superpixels; patches of a grid are
    the same for every image and method, and need no further settings.

    grid: patches on each side; at most the number of pixels.
    samples: forward passes, the first of the whole image; each patch is kept with probability 1/2.
    width: of the kernel.
    ridge: r.
    seed: of the patches kept, together with the query's id.
    baseline: replaces the patches that are not in S.
    """

    card: ClassVar[Card] = Card(
        identities=("without a ridge, on an additive score, it is the contribution of each patch",),
        degenerate=(
            "the ridge is not on the scale of the score: with few samples it shrinks the patches of small contribution",
        ),
    )

    grid: Count = 7
    samples: Count = 1000
    width: Positive = 0.25
    ridge: NotNegative = 1.0
    seed: Natural = 0
    baseline: BaselineName = "mean_colour"

    def forwards(self, query: Side) -> int:
        return self.samples

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        rows, cols = (min(self.grid, side) for side in images.shape[-2:])
        places = patch_of(images.shape[-2], rows), patch_of(images.shape[-1], cols)
        drawn = [self.draw(rows * cols, query_id) for query_id in pairs.query_ids]
        masks = [Coalitions(kept.view(-1, rows, cols), *places) for kept in drawn]
        scores = scores_behind(model, encoded, masks, self.baseline)
        found = [self.fit(kept, values.cpu()) for kept, values in zip(drawn, scores, strict=True)]
        return torch.stack(found).view(-1, rows, cols).to(images)

    def draw(self, patches: int, query_id: str) -> Members:
        """The patches that each sample keeps, all of them in the first."""
        draw = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "lime"))
        kept = torch.rand(self.samples, patches, generator=draw, dtype=torch.float32) < 0.5
        kept[0] = True
        return kept

    def fit(self, kept: Members, scores: Values) -> Float[Tensor, " patches"]:
        """The coefficients of the weighted ridge regression; NaN where a score is not finite, which evaluate flags."""
        if not scores.isfinite().all():
            return torch.full(kept.shape[1:], torch.nan, dtype=torch.float64)
        distance = 1 - kept.double().mean(dim=1).sqrt()  # the cosine of a 0/1 vector and the vector of ones
        weights = np.exp(-(distance.numpy() ** 2) / self.width**2) ** 0.5
        model = Ridge(alpha=self.ridge).fit(kept.double().numpy(), scores.numpy(), sample_weight=weights)
        return torch.from_numpy(model.coef_)
