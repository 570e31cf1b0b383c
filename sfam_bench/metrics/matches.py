"""Maps of pairs of positions: do they connect the same parts of both images, and are they geometrically plausible?"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.metric_card import SHARE, VALUES, MetricCard, label, role
from sfam_bench.core.ranges import Count, Share
from sfam_bench.core.types import KeypointsBatch, Masks
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_records

Places = Float[Tensor, "cells 2"]  # rows and columns of pixels
MEANINGS = {
    "hit": "share of the parts of the reference that are connected with the same part of the query",
    "precision": "of the connected parts of the reference, the share connected with the same part of the query",
    "chance": "share of the query's positions that would be correct",
}
NOTES = {**VALUES, "hit": "", "precision": "precision"}

PairValues = Float[Tensor, "rows cols reference_rows reference_cols"]


def centres(grid: tuple[int, int], size: tuple[int, int]) -> Places:
    """The centre of each cell of a grid over an image, in px."""
    axes = [(torch.arange(cells) + 0.5) * side / cells for cells, side in zip(grid, size, strict=True)]
    return torch.cartesian_prod(*axes).view(-1, 2)


def longest_side(masks: Masks) -> Float[Tensor, " batch"]:
    """The longer side of the box around each mask, in px; 0 for an empty mask."""
    sides = [masks.any(dim=axis).sum(dim=1) for axis in (1, 2)]
    return torch.stack(sides).amax(dim=0).double()


@dataclass(frozen=True)
class PCK(Checked):
    """Share of parts whose best match lies within `alpha` box sides of the same part; Yang, Ramanan, TPAMI 2013.

    For each part visible in both images, the position of the query with the greatest value for the part's position in
    the reference; it is correct where its centre is at most `alpha` times the longer side of the query's box from the
    part in the query. A position of the reference without a positive value has no match, which is a miss; "precision"
    leaves these out.

    alpha: of the longer side of the box.
    value: "hit", its "precision" among parts with a match, or its "chance" level: for a random position of the query.
    """

    needs: ClassVar[tuple[str, ...]] = ("keypoints", "box")

    alpha: Share = 0.1
    value: Literal["hit", "precision", "chance"] = "hit"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=SHARE,
            needs=("pairs of positions",),
            degenerate=("on a coarse grid the centre of the right cell may be too far away: see the chance level",),
            group="Metrics that depend on the pair",
            label=label(f"PCK {self.alpha:g}", NOTES[self.value]),
            meaning=MEANINGS[self.value],
            family="pck_precision" if self.value == "precision" else "pck",
            threshold=self.alpha,
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        if explained.point_pairs is None:
            return no_records(explained)
        pairs = explained.scene.pairs
        own, other = self._keypoints(pairs.keypoints), self._keypoints(pairs.reference_keypoints)
        joint = explained.point_pairs().double().cpu()
        size = (explained.maps.shape[-2], explained.maps.shape[-1])
        far = self.alpha * longest_side(pairs.masks["box"].cpu())
        places = centres((joint.shape[1], joint.shape[2]), size)
        values, none = [], []
        for row, one in enumerate(joint):
            visible = ((own[row, :, 2] > 0) & (other[row, :, 2] > 0)).nonzero()[:, 0]
            cells = cells_of(
                other[row, visible],
                (one.shape[2], one.shape[3]),
                (pairs.reference_images.shape[-2], pairs.reference_images.shape[-1]),
            )
            distances = torch.cdist(places.double(), own[row, visible][:, [1, 0]].double())
            correct = (distances <= far[row]).double()
            values.append(rate_matches(self.value, one, cells, correct))
            none.append(len(visible) == 0)
        reasons = {"no_shared_parts": torch.tensor(none), "empty_mask": far == 0}
        reasons["no_matches"] = torch.stack(values).isnan()
        device, kind = explained.maps.device, explained.maps.dtype
        return mask_values(
            torch.stack(values).to(device, kind), {name: flags.to(device) for name, flags in reasons.items()}
        )

    def _keypoints(self, keypoints: KeypointsBatch | None) -> KeypointsBatch:
        if keypoints is None:
            raise ValueError("these images have no keypoints")
        return keypoints.cpu()


@dataclass(frozen=True)
class PartMatches(Checked):
    """Share of parts whose best match lies on the same part, known pixel by pixel; defined here after PCK.

    PCK without a distance: for each part visible in both images, the position of the query with the greatest value for
    the centre of the part in the reference; it is correct where its cell holds a pixel of the part in the query. A
    position of the reference without a positive value has no match, which is a miss; "precision" leaves these out.

    value: "hit", its "precision" among parts with a match, or its "chance" level: for a random position of the query.
    """

    needs: ClassVar[tuple[str, ...]] = ("redraws",)

    value: Literal["hit", "precision", "chance"] = "hit"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=SHARE,
            needs=("pairs of positions",),
            degenerate=("a cell holds pixels of several small parts: see the chance level",),
            group="Metrics that depend on the pair",
            label=label("PCK by part", NOTES[self.value]),
            meaning=MEANINGS[self.value],
            family="pck_part_precision" if self.value == "precision" else "pck_part",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        pairs = explained.scene.pairs
        if explained.point_pairs is None or pairs.redraws is None:
            return no_records(explained)
        joint = explained.point_pairs().double().cpu()
        values, none = [], []
        for query_id, reference_id, one in zip(pairs.query_ids, pairs.reference_ids, joint, strict=True):
            own, other = (pairs.redraws.part_masks(image_id).cpu() for image_id in (query_id, reference_id))
            visible = own.flatten(1).any(dim=1) & other.flatten(1).any(dim=1)
            none.append(not visible.any())
            if none[-1]:
                values.append(torch.zeros(()).double())
                continue
            points = torch.stack([mask.nonzero().double().mean(dim=0).flip(0) + 0.5 for mask in other[visible]])
            cells = cells_of(points, (one.shape[2], one.shape[3]), (other.shape[1], other.shape[2]))
            correct = adaptive_max_pool2d(own[visible].double(), one.shape[:2]).flatten(1).T
            values.append(rate_matches(self.value, one, cells, correct))
        found = torch.stack(values).to(explained.maps)
        reasons = {"no_shared_parts": torch.tensor(none, device=explained.maps.device), "no_matches": found.isnan()}
        return mask_values(found, reasons)


def rate_matches(
    value: str, joint: PairValues, cells: Int[Tensor, " parts"], correct: Float[Tensor, "positions parts"]
) -> Float[Tensor, ""]:
    """The share of parts whose best match is correct; "precision": NaN if none of them has a match."""
    if value == "chance":
        return correct.mean()
    columns = joint.flatten(0, 1).flatten(1)[:, cells]
    matched = columns.amax(dim=0) > 0
    right = correct.gather(0, columns.argmax(dim=0)[None])[0] * matched
    return right[matched].mean() if value == "precision" else right.mean()


def cells_of(
    points: Float[Tensor, "parts coordinates"], grid: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, " parts"]:
    """The number of the cell, in raster order, that holds each point."""
    rows, cols = (
        (points[:, axis] * cells / side).floor().long().clamp(0, cells - 1)
        for axis, cells, side in zip((1, 0), grid, size, strict=True)
    )
    return rows * grid[1] + cols


@dataclass(frozen=True)
class MatchResidual(Checked):
    """How far the best matches lie from one affine map between the images; after Shrack et al., arXiv 2503.22881.

    The mean distance between the matched positions of the reference and their places by the affine map that fits all
    matches best, over the diagonal of the reference; 0 is one common movement. PAIR-X's authors measure with a
    homography whether matches of right pairs are more plausible than those of wrong pairs of equal score: compare this
    value between kinds of pairs. A match is a position of the query and its greatest value; the best are those of
    greatest value. NaN for fewer than `least` positions of the reference that have a match of positive value, since the
    map that sends everything to one spot fits matches there.

    matches: number of matches.
    least: smallest number of matched positions of the reference; an affine map fits three without an error.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    matches: Count = 10
    least: Count = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least < 4 or self.matches < self.least:
            raise UserError("MatchResidual.least is at least 4, and matches at least least: three always fit")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(0, inf),
            needs=("pairs of positions",),
            degenerate=(
                "where several matches share a position of the reference, the map shrinks, and with it the residual",
                "objects that bend or turn have a residual without any wrong match",
            ),
            group="Metrics that depend on the pair",
            label="match residual",
            meaning="distance of the best matches from one affine map, in diagonals of the image",
            family="match_residual",
        )

    def __call__(self, explained: Explained) -> Measured:
        if explained.point_pairs is None:
            return no_records(explained)
        joint = explained.point_pairs().double().cpu()
        pairs = explained.scene.pairs
        sizes = [(images.shape[-2], images.shape[-1]) for images in (pairs.query, pairs.reference_images)]
        own = centres((joint.shape[1], joint.shape[2]), sizes[0]).double()
        other = centres((joint.shape[3], joint.shape[4]), sizes[1]).double()
        diagonal = torch.tensor(sizes[1]).double().norm()
        values = []
        for one in joint.flatten(1, 2).flatten(2):
            best, where = one.max(dim=1)
            chosen = best.argsort(descending=True, stable=True)[: self.matches]
            chosen = chosen[best[chosen] > 0]
            enough = len(where[chosen].unique()) >= self.least
            values.append(affine_residual(own[chosen], other[where[chosen]]) / diagonal if enough else None)
        few = torch.tensor([value is None for value in values], device=explained.maps.device)
        found = torch.stack([torch.zeros(()).double() if value is None else value for value in values])
        return mask_values(found.to(explained.maps), {"few_matches": few})


def affine_residual(places: Places, others: Places) -> Float[Tensor, ""]:
    """The mean distance of points from their places by the affine map that fits them best in squares."""
    design = torch.cat([places, torch.ones_like(places[:, :1])], dim=1)
    fitted = design @ torch.linalg.lstsq(design, others, driver="gelsd").solution
    return (fitted - others).norm(dim=1).mean()
