"""Windows that hide rectangles of an image, one at a time."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.types import Images
from sfam_bench.engine.series import SoftMasks


@dataclass(frozen=True)
class Windows:
    """Masks without a window, then with each window: rows and columns of the windows, 1 inside."""

    rows: Float[Tensor, "down rows"]
    cols: Float[Tensor, "across cols"]

    def __len__(self) -> int:
        return 1 + len(self.rows) * len(self.cols)

    def make(self, first: int, last: int) -> SoftMasks:
        windows = torch.arange(first, last) - 1
        rows, cols = self.rows[windows // len(self.cols)], self.cols[windows % len(self.cols)]
        return 1 - (windows >= 0)[:, None, None] * rows[:, :, None] * cols[:, None, :]


def centred_windows(images: Images, grid: int, window: float) -> Windows:
    """Squares around the centres of grid x grid cells, or of each pixel of a smaller side, clipped at the edges.

    As in ProtoShotXAI's code a window reaches from half its side before the centre's pixel up to that far behind it.

    window: side of a square as a share of the image's shorter side, at least two pixels.
    """
    sides = images.shape[-2:]
    half = max(1, round(window * min(sides) / 2))
    return Windows(*(_centred(side, min(grid, side), half) for side in sides))


def _centred(side: int, count: int, half: int) -> Float[Tensor, "count side"]:
    centres = ((torch.arange(count, dtype=torch.float32) + 0.5) * side / count).floor()[:, None]
    places = torch.arange(side)
    return ((centres - half <= places) & (places < centres + half)).double()


def pixels(share: float, side: int) -> int:
    """A share of a side in pixels, at least one."""
    return max(1, round(share * side))
