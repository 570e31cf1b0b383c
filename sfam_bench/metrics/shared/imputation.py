"""Removed pixels as weighted means of their neighbours, solved jointly for many sets of removed pixels."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from sfam_bench.core.types import Image, Images

Removed: TypeAlias = Bool[Tensor, "sets rows cols"]
# (sets or 1, channels or 1, rows, cols), contiguous, within a frame of zeros one pixel wide
Planes: TypeAlias = Float[Tensor, "_ _ _ _"]
SETS = 3  # solved at once on a CPU, whose caches hold no more of 224 px
TOLERANCE = 2e-4  # of the last step; the error after it is smaller, 5e-5 at most over all kinds of maps
STEPS = 200  # of which 4 to 9 are taken
COARSEST = 8  # rows and columns, at most, of the grid that is solved directly
NEGLIGIBLE = 0.01  # the share of a cell below which it is known
TRAPPED = 3  # the power of a coarse cell's removed share that needs the fewest steps over all kinds of maps


def impute(image: Image, removed: Removed) -> Images:
    """The image with the pixels of each set imputed, (sets, channels, rows, cols); Rong et al., ICML 2022.

    Each removed pixel is the mean of its neighbours within the image, with weights 2 at its sides and 1 at its corners.
    These linear systems are solved together, to 1e-4 for values in [0, 1], by conjugate gradients preconditioned with a
    multigrid cycle. At least one pixel of each set must remain.
    """
    some = removed.split(len(removed) if removed.is_cuda else SETS)
    return torch.cat([impute_together(image, sets) for sets in some])


def impute_together(image: Image, removed: Removed) -> Images:
    """The same by one solve."""
    rows, cols = removed.shape[1:]
    halvings = ((max(rows, cols) - 1) // COARSEST).bit_length()
    margin = (1, 1 + -cols % 2**halvings, 1, 1 + -rows % 2**halvings)
    gone = removed[:, None].to(image.dtype)
    left = 1 - gone
    # without this mean the removed pixels start at zero, where rounding does not accumulate
    mean = (image * left).sum(dim=(-2, -1), keepdim=True) / left.sum(dim=(-2, -1), keepdim=True)
    multigrid = Multigrid.build(pad(gone, margin), pad(torch.ones_like(gone[:1]), margin), halvings)
    found = solve(multigrid, pad((image - mean) * left, margin))[..., 1 : rows + 1, 1 : cols + 1]
    return torch.where(removed[:, None], found + mean, image)


def solve(multigrid: "Multigrid", known: Planes) -> Planes:
    """The values of removed pixels beside those of known ones, zero elsewhere."""
    diagonal = multigrid.grids[0].diagonal
    # at known pixels the residual may have any values, which the inverse diagonals leave out
    residual, values = sum_around(known), torch.zeros_like(known)
    direction = before = torch.zeros_like(known[..., :1, :1])
    for _ in range(STEPS):
        correction = multigrid(residual)
        product = dot(residual, correction)
        direction = correction.addcmul_(direction, divide(product, before))
        before = product
        applied = sum_around(direction).addcmul_(diagonal, direction, value=-1)
        length = divide(product, -dot(direction, applied))
        values.addcmul_(length, direction)
        residual.addcmul_(length, applied)
        step = length * direction.abs().amax(dim=(-2, -1), keepdim=True)
        if not step.max() > TOLERANCE:  # reached, or not finite since the image is not
            return values
    raise ArithmeticError(f"imputed pixels change by more than {TOLERANCE} after {STEPS} steps")


@dataclass(frozen=True)
class Grid:
    """The system's `diagonal`, its `inverse`, and the `weights` of a coarser correction; zero at known pixels."""

    diagonal: Planes
    inverse: Planes
    weights: Planes


@dataclass(frozen=True)
class Multigrid:
    """An approximate inverse of the system: ever coarser grids, and the exact inverse on the coarsest."""

    grids: list[Grid]
    inverse: Float[Tensor, "sets cells cells"]

    @classmethod
    def build(cls, removed: Planes, inside: Planes, halvings: int) -> "Multigrid":
        """Prepare for pixels removed (1) or known (0), inside the image (1) or not (0).

        A coarse cell that is removed in part keeps a part of its value, like random walks that may end in it.
        """
        grids = []
        for _ in range(halvings):
            grids.append(make_grid(removed, inside))
            whole = halve(inside)
            share = (halve(removed) / whole.clamp_min(1)) ** TRAPPED
            removed, inside = share * (share > NEGLIGIBLE), whole.sign()
        grids.append(last := make_grid(removed, inside))
        rows, cols = (size - 2 for size in removed.shape[-2:])
        cells = torch.eye(rows * cols, dtype=removed.dtype, device=removed.device).unflatten(1, (1, rows, cols))
        around, diagonal = inner(sum_around(pad(cells, (1, 1, 1, 1)))).flatten(1), inner(last.diagonal).flatten(1)
        free = diagonal.sign()
        system = torch.diag_embed(diagonal + (1 - free)) - around * free[:, None] * free[..., None]
        return cls(grids, torch.linalg.inv(system) * free[:, None])

    def __call__(self, residual: Planes, number: int = 0) -> Planes:
        """One cycle from grid `number`: average, correct by the coarser grid, average again."""
        if number == len(self.grids) - 1:
            cells = inner(residual)
            found = cells.flatten(2) @ self.inverse
            return pad(found.view(cells.shape), (1, 1, 1, 1))
        grid = self.grids[number]
        values = residual * grid.inverse
        coarse = self(halve(sum_around(values).mul_(grid.weights)), number + 1)
        values.addcmul_(double(coarse), grid.weights)
        return sum_around(values).add_(residual).mul_(grid.inverse)


def make_grid(removed: Planes, inside: Planes) -> Grid:
    """The grid of cells removed by a share from 0 to 1."""
    own, free = sum_around(inside), removed.sign()
    inverse = removed / own.clamp_min(1)
    return Grid(free * own / removed.clamp_min(NEGLIGIBLE), inverse, free / smooth(inside).clamp_min(1))


def inner(planes: Planes) -> Tensor:
    """Planes without their frame."""
    return planes[..., 1:-1, 1:-1]


def smooth(planes: Planes) -> Planes:
    """The sum of each pixel with weight 4 and its neighbours with weights 2 and 1; the frame gets any values.

    Shifts of the flat tensor cost half of shifted slices; the frame separates rows and planes.
    """
    width, flat = planes.shape[-1], planes.view(-1)
    across = torch.add(flat[:-2], flat[2:]).add_(flat[1:-1], alpha=2)
    out = torch.empty_like(planes)
    first, inside, last = out.view(-1).split((width + 1, len(flat) - 2 * width - 2, width + 1))
    first.zero_()
    last.zero_()
    torch.add(across[: -2 * width], across[2 * width :], out=inside).add_(across[width:-width], alpha=2)
    return out


def sum_around(planes: Planes) -> Planes:
    """The sum of each pixel's neighbours, with weights 2 at the sides and 1 at the corners."""
    return smooth(planes).sub_(planes, alpha=4)


def halve(planes: Planes) -> Planes:
    """The sums of two by two smoothed pixels."""
    rows = inner(smooth(planes))
    rows = rows[..., ::2, :] + rows[..., 1::2, :]
    return pad(rows[..., ::2] + rows[..., 1::2], (1, 1, 1, 1))


def double(planes: Planes) -> Planes:
    """The transpose of `halve`: each cell as two by two pixels, smoothed."""
    cells = inner(planes)
    out = planes.new_zeros(*cells.shape[:-2], 2 * cells.shape[-2] + 2, 2 * cells.shape[-1] + 2)
    pixels = inner(out)
    pixels[..., ::2, ::2] = pixels[..., ::2, 1::2] = cells
    pixels[..., 1::2, :] = pixels[..., ::2, :]
    return smooth(out)


def dot(first: Planes, second: Planes) -> Tensor:
    """The inner product of each plane, (sets, channels, 1, 1)."""
    return (first * second).sum(dim=(-2, -1), keepdim=True)


def divide(dividend: Tensor, divisor: Tensor) -> Tensor:
    """Quotients, zero where the divisor is zero."""
    return torch.where(divisor == 0, 0, dividend / divisor)
