"""CorrRISE: the correlation of each pixel with the score."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, Share
from sfam_bench.core.records import Encoded, PairBatch, Side, pair_seed
from sfam_bench.core.types import RawMaps
from sfam_bench.engine.series import SoftMasks
from sfam_bench.explainers.shared.masking import CPU, MaskScores, masked_scores, sum_masks
from sfam_bench.models.similarity_model import SimilarityModel

CHUNK = 64  # masks at image resolution at once
TIES = 100  # roundings within which scores tie


@dataclass(frozen=True)
class CorrRISE(Checked):
    """corr_n(M_n,ij, rank of s_n), M_n masks with random patches removed; Lu, Xu, Ebrahimi, WACV 2024, reconstructed.

    From re-implementations, which agree on 500 masks and on black patches of 30 pixels at 112, inside the image, but
    not on the number of patches (10 or 3) and not on ranks. The paper's two maps, of similar and of dissimilar regions,
    are the positive parts of this one and of its negative.

    masks: number of masks and of forward passes.
    patches: removed from each mask; they may overlap.
    patch: side of a patch as a share of the image's.
    seed: of the masks, together with the query's id.
    baseline: replaces the patches.
    correlation: "spearman" ranks the scores first, so that a few outliers do not dominate (ranking a mask of zeros and
        ones changes nothing); "pearson" uses the scores themselves.
    dissimilar: the negative of the map, high where a region makes the two images unlike.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "with pearson it is invariant to scaling and shifting the scores, with spearman to any increasing "
            "transformation",
            "the dissimilar map is the negative of the similar one",
        ),
        degenerate=(
            "a pixel that no patch covers, or every patch, has no correlation and is zero",
            "where masks change the score by no more than rounding, it is the correlation with rounding errors",
        ),
    )

    masks: Count = 500
    patches: Count = 10
    patch: Share = 0.268
    seed: Natural = 0
    baseline: BaselineName = "zeros"
    correlation: Literal["pearson", "spearman"] = "spearman"
    dissimilar: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks < 2:
            raise UserError(f"CorrRISE.masks is {self.masks}: a correlation needs at least 2")
        if not 0 < self.patch < 1:
            raise UserError(f"CorrRISE.patch is {self.patch}: expected a share of the image's side between 0 and 1")

    def forwards(self, query: Side) -> int:
        return self.masks

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        masking, images = Patches(self.masks, self.patches, self.patch, self.seed), encoded.query.images
        scores = masked_scores(model, encoded, pairs, masking, self.baseline).target
        if self.correlation == "spearman":
            scores = ranks(scores, TIES * torch.finfo(images.dtype).eps)
        scores = scores - scores.mean(dim=1, keepdim=True)
        together, kept = sum_masks(masking, pairs, images, scores, torch.ones_like(scores)) / self.masks
        spread = kept * (1 - kept) * scores.square().mean(dim=1)[:, None, None]
        maps = torch.where(spread > 0, together / spread.sqrt(), 0)
        return (-maps if self.dissimilar else maps).to(images)


@dataclass(frozen=True)
class Patches:
    """`masks` masks with `patches` patches removed from each; the side of a patch is `patch` of the image's."""

    masks: int
    patches: int
    patch: float
    seed: int

    def draw(self, query_id: str, size: tuple[int, int], device: torch.device = CPU) -> "DrawnPatches":
        draw = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "patches"))
        places = []
        for side in size:
            width = max(1, round(self.patch * side))
            first = torch.randint(0, side - width + 1, (self.masks, self.patches, 1), generator=draw)
            places.append((first <= torch.arange(side)) & (torch.arange(side) < first + width))
        return DrawnPatches(*(place.to(device, torch.float32) for place in places))


@dataclass(frozen=True)
class DrawnPatches:
    """Masks of one query as the rows and the columns of each patch, 1 inside."""

    rows: Float[Tensor, "masks patches rows"]
    cols: Float[Tensor, "masks patches cols"]

    def __len__(self) -> int:
        return len(self.rows)

    def make(self, first: int, last: int) -> SoftMasks:
        return (self.rows[first:last].mT @ self.cols[first:last] == 0).float()

    def sum_weighted(self, weights: Float[Tensor, "maps masks"]) -> Float[Tensor, "maps rows cols"]:
        total = weights.new_zeros(len(weights), self.rows.shape[-1], self.cols.shape[-1])
        for first in range(0, len(self), CHUNK):
            last = min(first + CHUNK, len(self))
            total += torch.einsum("mn,nij->mij", weights[:, first:last], self.make(first, last).double())
        return total


def ranks(scores: MaskScores, rounding: float) -> MaskScores:
    """Rank of each score in its row; scores that differ by rounding share their ranks.

    Within `rounding` of the largest magnitude the comparison is a linear slope, so that ranks are continuous.
    """
    reach = (rounding * scores.abs().amax(dim=1)).clamp_min(torch.finfo(scores.dtype).tiny)[:, None, None]
    gaps = scores[:, :, None] - scores[:, None, :]
    return (gaps / (2 * reach) + 0.5).clamp(0, 1).sum(dim=2)
