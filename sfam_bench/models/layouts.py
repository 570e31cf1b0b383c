"""How a layer arranges its output: a grid with channels first or last, or tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.types import Activations
from sfam_bench.models.tokens import Tokens, as_grid, join, split_tokens

Size: TypeAlias = tuple[int, int]  # rows, cols

MOST_PREFIX = 16  # class, distillation and register tokens
PER_SIDE = 1.15  # largest ratio of the pixels per position along rows to those along columns


@dataclass(frozen=True)
class Layout:
    """Where positions and channels of an output lie.

    Attributes:
        kind: "first" (batch, channels, rows, cols), "last" (batch, rows, cols, channels), or "tokens" (batch, tokens,
            channels).
        prefix: number of tokens before those of the positions, such as the class token.
        carried: whether these tokens are part of the activations, as channels that are constant over positions;
            otherwise they are not used behind the layer, and are dropped.
        fixed: the grid of an output whose shape does not depend on the size of the image; None for others.
    """

    kind: Literal["first", "last", "tokens"]
    prefix: int = 0
    carried: bool = True
    fixed: Size | None = None

    @classmethod
    def find(cls, seen: Sequence[tuple[Size, torch.Size]]) -> "Layout | None":
        """The layout of outputs whose shapes are known for some sizes of images, or None without one.

        Several numbers of prefix tokens may leave a grid: 20 tokens of images of 56 x 56 px are 4 x 5 with a stride of
        13, or four registers and 4 x 4 with a stride of 14. The one with a whole stride is chosen. Outputs of one shape
        for images of any size, which a network resizes itself, are judged by those of the first size.
        """
        if len({len(shape) for _, shape in seen}) > 1:
            return None
        same = len(seen) > 1 and len({shape for _, shape in seen}) == 1
        if same:
            seen = seen[:1]
        choices = [cls("first"), cls("last"), *(cls("tokens", prefix) for prefix in range(MOST_PREFIX + 1))]
        fitting = [one for one in choices if all(one.grid(shape, size) for size, shape in seen)]
        size, shape = seen[0]
        whole = (one for one in fitting if one.kind != "tokens" or is_whole(one.grid(shape, size), size))
        found = next(whole, fitting[0] if fitting else None)
        return found if found is None or not same else replace(found, fixed=found.grid(shape, size))

    def grid(self, shape: torch.Size, size: Size) -> Size | None:
        """Rows and columns of an output for images of `size`; None where they do not have its proportions."""
        if len(shape) != (3 if self.kind == "tokens" else 4):
            return None
        if self.kind == "tokens":
            return self.fixed or grid_of(shape[1] - self.prefix, size)
        rows, cols = shape[2:] if self.kind == "first" else shape[1:3]
        return (rows, cols) if rows * cols > 1 and is_scaled((rows, cols), size) else None

    def to_grid(self, output: Tensor, size: Size, more: Tokens | None = None) -> Activations:
        """The output as activations; `more` are further tokens to carry."""
        if self.kind == "first":
            return output
        if self.kind == "last":
            return output.permute(0, 3, 1, 2)
        grid = self.grid(output.shape, size)
        if grid is None:
            raise UserError(f"{output.shape[1]} tokens are no grid for images of {size[0]} x {size[1]} px")
        patches = as_grid(output[:, self.prefix :], grid)
        kept = [output[:, : self.prefix]] if self.carried else []
        carried = [*kept, *([] if more is None else [more])]
        return join(patches, torch.cat(carried, dim=1)) if carried else patches

    def from_grid(self, activations: Activations, more: int = 0) -> tuple[Tensor, Tensor]:
        """The output and `more` further tokens, from `to_grid`."""
        if self.kind == "first":
            return activations, activations[:, :0]
        if self.kind == "last":
            return activations.permute(0, 2, 3, 1), activations[:, :0]
        carried = self.prefix if self.carried else 0
        tokens = split_tokens(activations, carried + more)
        further, tokens = (
            tokens[:, carried : carried + more],
            torch.cat([tokens[:, :carried], tokens[:, carried + more :]], 1),
        )
        if not self.carried:
            tokens = torch.cat([tokens.new_zeros(len(tokens), self.prefix, tokens.shape[2]), tokens], dim=1)
        return tokens, further

    @property
    def dropping(self) -> "Layout":
        """The same, with prefix tokens dropped."""
        return replace(self, carried=False)


def size_of(images: Tensor) -> Size:
    """Rows and columns of images."""
    return images.shape[-2], images.shape[-1]


@cache  # one network asks for the same few grids thousands of times
def grid_of(count: int, size: Size) -> Size | None:
    """The grid of so many tokens on images of `size`, with one whole stride up to rounding at the border, or None."""
    for stride in range(1, max(size) + 1):
        rows, cols = ({px // stride, -(-px // stride)} for px in size)
        found = next(((row, count // row) for row in rows if row and count % row == 0 and count // row in cols), None)
        if found is not None and count > 1:
            return found
    return None


def is_whole(grid: Size | None, size: Size) -> bool:
    """Whether a grid divides images of `size` into squares of whole px."""
    return grid is not None and all(size[side] == size[0] // grid[0] * grid[side] for side in (0, 1))


def is_scaled(grid: Size, size: Size) -> bool:
    """Whether a grid has nearly one stride along both sides of images of `size`."""
    rows, cols = (px / positions for px, positions in zip(size, grid, strict=True))
    return min(rows, cols) >= 1 and (
        max(rows, cols) / min(rows, cols) < PER_SIDE or grid_of(grid[0] * grid[1], size) == grid
    )
