"""The only place where raw maps change size and scale."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.types import Flags, Maps, RawMaps

CONSTANT = 1e-5  # range over largest magnitude below which float32 maps are flat: some 100 roundings


def upsample(raw: RawMaps, size: tuple[int, int]) -> Maps:
    """Resample to `size` (rows, cols) bilinearly, without aligned corners (each cell stands for its patch)."""
    rows, cols = (bilinear(cells, pixels).to(raw) for cells, pixels in zip(raw.shape[-2:], size, strict=True))
    return rows @ raw @ cols.T


def bilinear(cells: int, pixels: int) -> Float[Tensor, "pixels cells"]:
    """Weights of the cells in each pixel, as in F.interpolate.

    But pixels beyond the centre of the last cell are exactly equal here; there they differ in the last bit, so that
    their ranks would hang on rounding, and with it on the batch.
    """
    centres = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    return (1 - (centres.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()).clamp_min(0)


def flagged(raw: RawMaps) -> tuple[Flags, Flags]:
    """Say which maps hold NaN or infinity, and which are constant (all-zero among them)."""
    flat = raw.flatten(1)
    nonfinite = ~flat.isfinite().all(dim=1)
    spread = flat.amax(dim=1) - flat.amin(dim=1)
    constant = ~(spread > CONSTANT * flat.abs().amax(dim=1))
    return nonfinite, constant & ~nonfinite


def normalise(raw: RawMaps) -> RawMaps:
    """Divide by the largest magnitude, which keeps sign and zero; constant and non-finite maps become zeros."""
    nonfinite, constant = flagged(raw)
    usable = torch.where((nonfinite | constant)[:, None, None], 0, raw)
    peak = usable.abs().amax(dim=(1, 2), keepdim=True)
    return usable / torch.where(peak > 0, peak, 1)
