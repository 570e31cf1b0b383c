"""FIxLIP: interactions of the patches of both images."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural, Share
from sfam_bench.core.records import Encoded, PairBatch, Reference, Side, Term, pair_seed
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps
from sfam_bench.explainers.kernel_shap import Coalitions, Members, Values, patch_of
from sfam_bench.explainers.shared.masking import embed_masked
from sfam_bench.explainers.shared.points import PointPairs, only_reference
from sfam_bench.models.similarity_model import SimilarityModel

Interactions = Float[Tensor, "patches other_patches"]


@dataclass(frozen=True)
class FIxLIP(Checked):
    """sum_j I_ij, I the weighted Banzhaf interactions of patches i and j of two images; Baniecki et al., NeurIPS 2025.

    v(S, T) is the score of the query with the patches S and the reference with T, all others replaced. I_ij are the
    coefficients of S_i T_j in the regression of v on all patches and pairs of patches of both images, weighted by the
    probability of S and T. The masks of one image are scored with all masks of the other, as in the authors'
    cross-modal sampling, so that n + n passes give n^2 scores; then I follows exactly from two small regressions (see
    `interactions`). The sum over the reference's patches as one map is derived. With the whole reference alone the
    method is of first order, and KernelSHAP with Banzhaf weights.

    grid: patches on each side, of both images; at most the number of pixels.
    samples: masks of each image; all where there are no more.
    keep: probability that a patch is kept; the paper also uses 0.3 and 0.7.
    seed: of the masks, together with the id of their image.
    baseline: replaces the patches that are not kept.
    """

    card: ClassVar[Card] = Card(
        one_image=True,
        identities=(
            "for patches that add up in the embedding it is Zhu's product without rectification (dot)",
            "I is the coefficients of the whole regression on the scores of all pairs of masks",
        ),
        degenerate=("on cosine an interaction is what two patches add together, not what they have in common",),
    )

    grid: Count = 4
    samples: Count = 128
    keep: Share = 0.5
    seed: Natural = 0
    baseline: BaselineName = "mean_colour"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep in (0, 1):
            raise UserError(f"FIxLIP.keep is {self.keep}: choose a probability such as 0.5")
        if self.samples < min(2**self.grid**2, self.grid**2 + 1):
            needed = self.grid**2 + 1
            raise UserError(
                f"FIxLIP.samples is {self.samples}: {self.grid**2} patches need {needed}; or a smaller grid"
            )

    def forwards(self, query: Side) -> int:
        """The masks of the query and of its reference, of which a margin has two."""
        return 3 * self.samples

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        found = self._interactions(model, encoded, pairs)
        maps = [torch.stack([sign * one.sum(dim=1) for sign, one in pair]).sum(dim=0) for pair in found]
        return torch.stack(maps).view(-1, *self._grid(encoded.query)).to(encoded.query.images)

    def point_pairs(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> PointPairs:
        """I, for each pair of patches."""
        shape = (*self._grid(encoded.query), *self._grid(only_reference(encoded)))
        found = self._interactions(model, encoded, pairs)
        return torch.stack([one[0][1] for one in found]).view(-1, *shape).to(encoded.query.images)

    def _interactions(
        self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch
    ) -> list[list[tuple[float, Interactions]]]:
        """For each pair, the sign and the interactions of each comparison of the target."""
        compared = list(comparisons(model.similarity, encoded.query.embeddings, encoded.terms))
        sides = [encoded.query, *(reference.side_for("fixlip") for _, reference in compared)]
        first = [pairs.query_ids, pairs.reference_ids, pairs.negative_ids or pairs.reference_ids]
        ids = [*first, *[pairs.reference_ids] * len(sides)][: len(sides)]
        kept = [self._embed(encoded, side, names) for side, names in zip(sides, ids, strict=True)]
        found = []
        for row in range(len(pairs.query_ids)):
            (members, weights, embeddings), *others = (side[row] for side in kept)
            found.append(
                [
                    (
                        float(slope[row, 0]),
                        interactions(model.similarity.matrix(embeddings, far), members, weights, *other),
                    )
                    for (slope, _), (*other, far) in zip(compared, others, strict=True)
                ]
            )
        return found

    def _embed(self, encoded: Encoded, side: Side, names: tuple[str, ...]) -> list[tuple[Members, Values, Embeddings]]:
        """For each image of one side its masks, their weights, and its embeddings behind them in float64."""
        (rows, cols), images = self._grid(side), side.images
        places = patch_of(images.shape[-2], rows), patch_of(images.shape[-1], cols)
        drawn = [self.draw(rows * cols, name) for name in names]
        masks = [Coalitions(members.view(-1, rows, cols), *places) for members, _ in drawn]
        passes = embed_masked(
            replace(encoded, query=side, terms=(Term(1.0, Reference.of(side)),)), masks, self.baseline
        )
        return [(*one, found.detach().double().cpu()) for one, (_, found) in zip(drawn, passes, strict=True)]

    def draw(self, patches: int, name: str) -> tuple[Members, Values]:
        """The patches that each mask of an image keeps, and the weight of each mask."""
        if 2**patches <= self.samples:
            members = (torch.arange(2**patches)[:, None] >> torch.arange(patches)) & 1 == 1
            return members, torch.where(members, self.keep, 1 - self.keep).double().prod(dim=1)
        draw = torch.Generator().manual_seed(pair_seed(self.seed, name, "", "interactions"))
        members = torch.rand(self.samples, patches, generator=draw, dtype=torch.float32) < self.keep
        return members, torch.full((self.samples,), 1 / self.samples, dtype=torch.float64)

    def _grid(self, side: Side) -> tuple[int, int]:
        rows, cols = side.images.shape[-2:]
        return min(self.grid, rows), min(self.grid, cols)


def interactions(
    scores: Float[Tensor, "coalitions other_coalitions"],
    members: Members,
    weights: Values,
    others: Bool[Tensor, "other_coalitions other_players"],
    theirs: Float[Tensor, " other_coalitions"],
) -> Interactions:
    """The coefficients of the products of two patches of different images in the weighted regression of second order.

    Centred by their weighted mean, these products are orthogonal to all functions of one image's mask, because every
    mask of one image is scored with every mask of the other. So the terms of single images need not be fitted, and the
    regression on products is one on each side. NaN where a score is not finite, which evaluate flags.
    """
    if not scores.isfinite().all():
        return torch.full((members.shape[1], others.shape[1]), torch.nan, dtype=torch.float64)
    left, right = centred_inverse(members, weights), centred_inverse(others, theirs)
    return left @ scores.cpu() @ right.T


def centred_inverse(members: Members, weights: Values) -> Float[Tensor, "players coalitions"]:
    """The map from scores to the coefficients of a weighted regression on members with an intercept."""
    rows, root = members.double(), (weights / weights.sum()).sqrt()
    centred = rows - (weights / weights.sum()) @ rows
    return torch.linalg.pinv(root[:, None] * centred) * root
