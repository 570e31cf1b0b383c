"""The query behind masks: random ones as in RISE, what the model says of them, and how masks add up to a map."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, pair_seed
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import score
from sfam_bench.core.types import Embeddings, Images, Scores
from sfam_bench.engine.series import Masked, SoftMasks
from sfam_bench.models.similarity_model import SimilarityModel

CPU = torch.device("cpu")

MaskScores = Float[Tensor, "batch masks"]


@runtime_checkable
class Masks(Protocol):
    """Masks of one image, made a few at a time; 1 keeps a pixel, 0 replaces it."""

    def __len__(self) -> int: ...

    def made(self, first: int, last: int) -> SoftMasks:
        """Masks number `first` to `last`, without the last."""
        ...


@runtime_checkable
class RandomMasks(Masks, Protocol):
    """Masks that add up to maps without all being held at once."""

    def weighted(self, weights: Float[Tensor, "maps masks"]) -> Float[Tensor, "maps rows cols"]:
        """sum_n weights_n mask_n for each map, in float64."""
        ...


@runtime_checkable
class Masking(Protocol):
    """Hashable settings of random masks, which hang on the query alone, so that methods and references share them."""

    def draw(self, query_id: str, size: tuple[int, int], device: torch.device = CPU) -> RandomMasks:
        """The masks of one query of `size` (rows, cols), drawn alike for every device."""
        ...


@dataclass(frozen=True)
class Grids:
    """`masks` grids of `grid` x `grid` cells, kept with probability `keep`, enlarged and shifted by part of a cell.

    As in RISE's code: enlarged bilinearly to the size of grid + 1 cells a side, mirrored at the borders, then cropped.
    """

    masks: int
    grid: int
    keep: float
    seed: int

    def draw(self, query_id: str, size: tuple[int, int], device: torch.device = CPU) -> "DrawnGrids":
        draw = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "grids"))
        cells = torch.rand(self.masks, self.grid, self.grid, generator=draw) < self.keep
        widths = [-(-side // self.grid) for side in size]
        shifts = [torch.randint(0, width, (self.masks,), generator=draw) for width in widths]
        tables = [_crops(self.grid, width, side) for width, side in zip(widths, size, strict=True)]
        return DrawnGrids(*(part.to(device) for part in (cells.double(), *shifts, *tables)))


def _crops(grid: int, width: int, side: int) -> Float[Tensor, "width side grid"]:
    """Weights of the cells of one axis in each pixel, for each shift."""
    pixels = torch.arange(width, dtype=torch.float64)[:, None] + torch.arange(side)
    centres = (
        (pixels + 0.5) * grid / ((grid + 1) * width) - 0.5
    ).abs()  # mirrored about the centres of the outer cells
    centres = (grid - 1 - (grid - 1 - centres).abs()).clamp_min(0)
    return (1 - (centres[..., None] - torch.arange(grid)).abs()).clamp_min(0)


@dataclass(frozen=True)
class DrawnGrids:
    """Masks of one query as small cells, their shifts, and for each shift of an axis the weights of cells in pixels."""

    cells: Float[Tensor, "masks grid grid"]
    row_shifts: Int[Tensor, " masks"]
    col_shifts: Int[Tensor, " masks"]
    rows: Float[Tensor, "row_width rows grid"]
    cols: Float[Tensor, "col_width cols grid"]

    def __len__(self) -> int:
        return len(self.cells)

    def made(self, first: int, last: int) -> SoftMasks:
        rows, cols = self.rows[self.row_shifts[first:last]], self.cols[self.col_shifts[first:last]]
        return rows @ self.cells[first:last] @ cols.mT

    def weighted(self, weights: Float[Tensor, "maps masks"]) -> Float[Tensor, "maps rows cols"]:
        # masks of the same shifts are added up while they are small
        heights, widths, grid = len(self.rows), len(self.cols), self.cells.shape[-1]
        sums = self.cells.new_zeros(len(weights), heights * widths, grid * grid)
        shifts = self.row_shifts * widths + self.col_shifts
        sums.index_add_(1, shifts, weights[:, :, None] * self.cells.flatten(1))
        right = torch.einsum("mrcab,cjb->mraj", sums.view(len(weights), heights, widths, grid, grid), self.cols)
        return torch.einsum("ria,mraj->mij", self.rows, right)


@runtime_checkable
class Gridded(Protocol):
    """A method with the fields of RISE's masks."""

    @property
    def masks(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def keep(self) -> float: ...
    @property
    def seed(self) -> int: ...


def grids_of(method: Gridded) -> Grids:
    """The masks of a method, or UserError where there can be none."""
    name = type(method).__name__
    for field, value in (("masks", method.masks), ("grid", method.grid)):
        if value < 1:
            raise UserError(f"{name}.{field} is {value}: expected at least 1")
    if not 0 < method.keep < 1:
        raise UserError(f"{name}.keep is {method.keep}: expected a probability between 0 and 1, such as 0.5")
    return Grids(method.masks, method.grid, method.keep, method.seed)


@dataclass(frozen=True)
class MaskedScores:
    """In float64, what the model says of the masked query: the target's score, and its cosine with the unmasked one."""

    target: MaskScores
    itself: MaskScores


def masked_scores(
    model: SimilarityModel, encoded: Encoded, pairs: PairBatch, masking: Masking, baseline: BaselineName
) -> MaskedScores:
    """Scores of each query behind its random masks: taken once, and kept for the methods with the same settings."""
    # tensors hash and, in a tuple, compare as objects: other sides of another target have a place of their own
    key = (masking, baseline, pairs.query_ids, encoded.query, encoded.terms)
    return encoded.kept.once(key, lambda: _taken(model, encoded, pairs, masking, baseline))


def _taken(
    model: SimilarityModel, encoded: Encoded, pairs: PairBatch, masking: Masking, baseline: BaselineName
) -> MaskedScores:
    query = encoded.query
    drawn = _drawn(masking, pairs, query.images)
    target, itself = [], []
    for pair, embeddings in behind(encoded, drawn, baseline):
        target.append(_score(model, encoded, pair, embeddings))
        itself.append(Cosine()(embeddings.double(), query.embeddings[pair].expand_as(embeddings)))
    return MaskedScores(torch.stack(target), torch.stack(itself))


def scores_behind(
    model: SimilarityModel, encoded: Encoded, masks: Sequence[Masks], baseline: BaselineName
) -> list[Scores]:
    """The target's scores of each query behind its masks, in float64."""
    return [_score(model, encoded, pair, embeddings) for pair, embeddings in behind(encoded, masks, baseline)]


def behind(encoded: Encoded, masks: Sequence[Masks], baseline: BaselineName) -> Iterator[tuple[int, Embeddings]]:
    """The embeddings of each query behind its masks: one forward pass a mask."""
    images = encoded.query.images
    hidden = BASELINES[baseline](images)
    return encoded.passes(
        (pair, Masked(image, hidden[pair], partial(_made, masks[pair], image), len(masks[pair])))
        for pair, image in enumerate(images)
    )


def weigh(
    masking: Masking, pairs: PairBatch, images: Images, *weights: MaskScores
) -> Float[Tensor, "maps batch rows cols"]:
    """sum_n weights_n mask_n for each query and kind of weights, at the resolution of the images, in float64."""
    drawn = _drawn(masking, pairs, images)
    maps = [masks.weighted(rows) for masks, rows in zip(drawn, torch.stack(weights, dim=1), strict=True)]
    return torch.stack(maps, dim=1)


def _drawn(masking: Masking, pairs: PairBatch, images: Images) -> list[RandomMasks]:
    size = images.shape[-2], images.shape[-1]
    return [masking.draw(query_id, size, images.device) for query_id in pairs.query_ids]


def _made(masks: Masks, like: Tensor, first: int, last: int) -> SoftMasks:
    return masks.made(first, last).to(like)


def _score(model: SimilarityModel, encoded: Encoded, pair: int, embeddings: Embeddings) -> Scores:
    rows = torch.full((len(embeddings),), pair, device=embeddings.device)
    return score(model.similarity, embeddings.double(), encoded.terms, rows)  # masks move it by little
