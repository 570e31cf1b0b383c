"""Masked queries: random masks as in RISE, the scores of masked queries, and sums of masks as maps."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural, Positive, Share
from sfam_bench.core.records import Encoded, PairBatch, Side, pair_seed
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import score
from sfam_bench.core.types import Embeddings, Images, RawMaps, Scores
from sfam_bench.engine.series import Masked, SoftMasks
from sfam_bench.models.similarity_model import SimilarityModel

CPU = torch.device("cpu")

PARTS = 8  # of the masks, whose maps are compared for the standard error
ROUNDS = (8, 4, 2, 1)  # parts of all masks after which the standard error is looked at

MaskScores = Float[Tensor, "batch masks"]
SumMasks: TypeAlias = Callable[..., Float[Tensor, "maps batch rows cols"]]  # of the weights given, MaskScores each


@runtime_checkable
class Masks(Protocol):
    """Masks of one image, computed a few at a time; 1 keeps a pixel, 0 replaces it."""

    def __len__(self) -> int: ...

    def make(self, first: int, last: int) -> SoftMasks:
        """Compute masks `first` to `last` (exclusive)."""
        ...


@runtime_checkable
class RandomMasks(Masks, Protocol):
    """Masks that can be summed without holding all of them in memory."""

    def sum_weighted(self, weights: Float[Tensor, "maps masks"]) -> Float[Tensor, "maps rows cols"]:
        """sum_n weights_n mask_n for each map, in float64."""
        ...


@runtime_checkable
class Masking(Protocol):
    """Hashable settings of random masks; masks depend only on the query, so that methods and references share them."""

    def draw(self, query_id: str, size: tuple[int, int], device: torch.device = CPU) -> RandomMasks:
        """The masks of one query of `size` (rows, cols), the same on every device."""
        ...


@dataclass(frozen=True)
class Grids:
    """`masks` grids of `grid` x `grid` cells, kept with probability `keep`, enlarged and shifted by part of a cell.

    As in RISE's code: enlarged bilinearly to grid + 1 cells a side, mirrored at the borders, then cropped.
    """

    masks: int
    grid: int
    keep: float
    seed: int

    def draw(self, query_id: str, size: tuple[int, int], device: torch.device = CPU) -> "DrawnGrids":
        draw = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "grids"))
        cells = torch.rand(self.masks, self.grid, self.grid, generator=draw, dtype=torch.float32) < self.keep
        widths = [-(-side // self.grid) for side in size]
        shifts = [torch.randint(0, width, (self.masks,), generator=draw) for width in widths]
        tables = [cell_weights(self.grid, width, side) for width, side in zip(widths, size, strict=True)]
        return DrawnGrids(*(part.to(device) for part in (cells.double(), *shifts, *tables)))


def cell_weights(grid: int, width: int, side: int) -> Float[Tensor, "width side grid"]:
    """Weights of the cells of one axis in each of its pixels, for each shift."""
    pixels = torch.arange(width, dtype=torch.float64)[:, None] + torch.arange(side)
    centres = ((pixels + 0.5) * grid / ((grid + 1) * width) - 0.5).abs()
    # mirrored at the centres of the outer cells
    centres = (grid - 1 - (grid - 1 - centres).abs()).clamp_min(0)
    return (1 - (centres[..., None] - torch.arange(grid)).abs()).clamp_min(0)


@dataclass(frozen=True)
class DrawnGrids:
    """Masks of one query: cells, shifts, and the weights of the cells in each pixel of an axis, for each shift."""

    cells: Float[Tensor, "masks grid grid"]
    row_shifts: Int[Tensor, " masks"]
    col_shifts: Int[Tensor, " masks"]
    rows: Float[Tensor, "row_width rows grid"]
    cols: Float[Tensor, "col_width cols grid"]

    def __len__(self) -> int:
        return len(self.cells)

    def make(self, first: int, last: int) -> SoftMasks:
        rows, cols = self.rows[self.row_shifts[first:last]], self.cols[self.col_shifts[first:last]]
        return rows @ self.cells[first:last] @ cols.mT

    def sum_weighted(self, weights: Float[Tensor, "maps masks"]) -> Float[Tensor, "maps rows cols"]:
        # masks with the same shifts are summed before they are enlarged
        heights, widths, grid = len(self.rows), len(self.cols), self.cells.shape[-1]
        sums = self.cells.new_zeros(len(weights), heights * widths, grid * grid)
        shifts = self.row_shifts * widths + self.col_shifts
        sums.index_add_(1, shifts, weights[:, :, None] * self.cells.flatten(1))
        right = torch.einsum("mrcab,cjb->mraj", sums.view(len(weights), heights, widths, grid, grid), self.cols)
        return torch.einsum("ria,mraj->mij", self.rows, right)


@dataclass(frozen=True)
class MaskedScores:
    """In float64, the target's score of each masked query, and its cosine similarity with the unmasked query."""

    target: MaskScores
    itself: MaskScores

    def extend(self, more: "MaskedScores") -> "MaskedScores":
        """These and the scores of further masks."""
        return MaskedScores(torch.cat([self.target, more.target], 1), torch.cat([self.itself, more.itself], 1))


@dataclass(frozen=True)
class GridMethod(Checked):
    """The settings that methods with RISE's masks share; each mask takes one forward pass.

    With `standard_error`, the masks of a pair end with the first eighth, quarter or half of them after which the map's
    standard error is small enough: relative to the map's standard deviation over pixels, as a root mean square over
    pixels, estimated from the maps of 8 parts of the masks. Passes are then not shared with other methods.
    """

    masks: Count = 1000
    grid: Count = 8
    keep: Share = 0.5
    seed: Natural = 0
    baseline: BaselineName = "mean_colour"
    standard_error: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name, least = type(self).__name__, 2 * PARTS * ROUNDS[0]
        if self.keep in (0, 1):
            raise UserError(f"{name}.keep is {self.keep}: choose a probability such as 0.5")
        if self.standard_error and self.masks < least:
            raise UserError(f"{name}.masks is {self.masks}: a standard error needs {least} masks or more")

    @property
    def grids(self) -> Grids:
        """The masks."""
        return Grids(self.masks, self.grid, self.keep, self.seed)

    def forwards(self, query: Side) -> int:
        return self.masks

    @abstractmethod
    def estimate(self, scores: MaskedScores, add: SumMasks) -> RawMaps:
        """The maps by these scores; `add` sums the masks with each of the weights given, (batch, masks) each."""

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        if self.standard_error is None:
            scores = masked_scores(model, encoded, pairs, self.grids, self.baseline)
            return self.estimate(scores, partial(sum_masks, self.grids, pairs, images)).to(images)
        drawn = draw_masks(self.grids, pairs, images)
        maps = [self._estimate_enough(model, encoded, pair, masks) for pair, masks in enumerate(drawn)]
        return torch.cat(maps).to(images)

    def _estimate_enough(self, model: SimilarityModel, encoded: Encoded, pair: int, masks: RandomMasks) -> RawMaps:
        """The map of one pair, from as many masks as it takes."""
        done, scores = 0, MaskedScores(*torch.zeros(2, 1, 0, dtype=torch.float64, device=encoded.query.images.device))
        for part in ROUNDS:
            last = len(masks) // part
            scores = scores.extend(score_some(model, encoded, pair, masks, self.baseline, done, last))
            done = last
            whole = self._estimate_some(scores, masks, slice(0, last))
            parts = torch.stack([self._estimate_some(scores, masks, slice(k, last, PARTS)) for k in range(PARTS)])
            error = (parts.var(dim=0).mean() / PARTS).sqrt()
            if error <= (self.standard_error or 0) * whole.std():
                break
        return whole

    def _estimate_some(self, scores: MaskedScores, masks: RandomMasks, chosen: slice) -> RawMaps:
        """The map by some of the masks."""

        def add(*weights: MaskScores) -> Float[Tensor, "maps batch rows cols"]:
            rows = torch.cat(weights)
            whole = rows.new_zeros(len(rows), len(masks))
            whole[:, chosen] = rows
            return masks.sum_weighted(whole)[:, None]

        return self.estimate(MaskedScores(scores.target[:, chosen], scores.itself[:, chosen]), add)


def masked_scores(
    model: SimilarityModel, encoded: Encoded, pairs: PairBatch, masking: Masking, baseline: BaselineName
) -> MaskedScores:
    """Scores of each query behind its random masks; computed once for all methods with the same settings."""

    def compute() -> MaskedScores:
        found = [
            score_both(model, encoded, pair, embeddings)
            for pair, embeddings in embed_masked(encoded, draw_masks(masking, pairs, encoded.query.images), baseline)
        ]
        return MaskedScores(*(torch.cat([getattr(one, name) for one in found]) for name in ("target", "itself")))

    # the sides are compared by identity, so that another target has another key
    return encoded.kept.once((masking, baseline, pairs.query_ids, encoded.query, encoded.terms), compute)


def score_some(
    model: SimilarityModel,
    encoded: Encoded,
    pair: int,
    masks: RandomMasks,
    baseline: BaselineName,
    first: int,
    last: int,
) -> MaskedScores:
    """The scores of one query behind masks `first` to `last` (exclusive)."""
    images = encoded.query.images[[pair]]
    hidden = BASELINES[baseline](images)[0]

    def make(start: int, end: int) -> SoftMasks:
        return masks.make(first + start, first + end).to(images)

    ((_, embeddings),) = encoded.passes([(pair, Masked(images[0], hidden, make, last - first))])
    return score_both(model, encoded, pair, embeddings)


def score_both(model: SimilarityModel, encoded: Encoded, pair: int, embeddings: Embeddings) -> MaskedScores:
    """The scores of one query, (1, masks) each."""
    own = encoded.query.embeddings[pair].expand_as(embeddings)
    target = score_masked(model, encoded, pair, embeddings)
    return MaskedScores(target[None], Cosine()(embeddings.double(), own)[None])


def scores_behind(
    model: SimilarityModel, encoded: Encoded, masks: Sequence[Masks], baseline: BaselineName
) -> list[Scores]:
    """The target's scores of each query behind its masks, in float64."""
    return [score_masked(model, encoded, *found) for found in embed_masked(encoded, masks, baseline)]


def embed_masked(encoded: Encoded, masks: Sequence[Masks], baseline: BaselineName) -> Iterator[tuple[int, Embeddings]]:
    """The number of each query and its embeddings behind its masks: one forward pass for each mask."""
    images = encoded.query.images
    hidden = BASELINES[baseline](images)

    def make(pair: int, first: int, last: int) -> SoftMasks:
        return masks[pair].make(first, last).to(images)

    return encoded.passes(
        (pair, Masked(image, hidden[pair], partial(make, pair), len(masks[pair]))) for pair, image in enumerate(images)
    )


def score_masked(model: SimilarityModel, encoded: Encoded, pair: int, embeddings: Embeddings) -> Scores:
    """The target's scores of one query behind its masks; float64, since masks change the score only a little."""
    rows = torch.full((len(embeddings),), pair, device=embeddings.device)
    return score(model.similarity, embeddings.double(), encoded.terms, rows)


def sum_masks(
    masking: Masking, pairs: PairBatch, images: Images, *weights: MaskScores
) -> Float[Tensor, "maps batch rows cols"]:
    """sum_n weights_n mask_n for each query and kind of weights, at the resolution of the images, in float64."""
    drawn = draw_masks(masking, pairs, images)
    maps = [masks.sum_weighted(rows) for masks, rows in zip(drawn, torch.stack(weights, dim=1), strict=True)]
    return torch.stack(maps, dim=1)


def draw_masks(masking: Masking, pairs: PairBatch, images: Images) -> list[RandomMasks]:
    """The masks of each query."""
    size = images.shape[-2], images.shape[-1]
    return [masking.draw(query_id, size, images.device) for query_id in pairs.query_ids]
