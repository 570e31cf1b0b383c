"""The only place where raw maps change size and scale."""

import torch
from torch.nn import functional as F

from sfam_bench.types import Flags, Maps, RawMaps

CONSTANT = 1e-5  # range over largest magnitude below which float32 maps are flat: some 100 roundings


def upsample(raw: RawMaps, size: tuple[int, int]) -> Maps:
    """Resample to `size` (rows, cols) bilinearly, without aligned corners (each cell stands for its patch)."""
    return F.interpolate(raw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


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
