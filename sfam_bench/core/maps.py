"""Upsampling, normalisation and ranks of maps; no other module changes their size or scale."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sfam_bench.core.types import Flags, Maps, RawMaps

ROUNDING = 1e-5  # share of the largest magnitude, about 100 roundings of float32; smaller differences are ignored


def upsample(raw: RawMaps, size: tuple[int, int]) -> Maps:
    """Resample to `size` (rows, cols) bilinearly, without aligned corners (each cell stands for its patch).

    In float64, so that pixels which differ only by rounding are equal and their order does not depend on the batch.
    """
    rows, cols = (bilinear(cells, pixels).to(raw.device) for cells, pixels in zip(raw.shape[-2:], size, strict=True))
    return (rows @ raw.double() @ cols.T).to(raw.dtype)


def bilinear(cells: int, pixels: int) -> Float[Tensor, "pixels cells"]:
    """Weights of the cells in each pixel, as in F.interpolate.

    Unlike there, pixels beyond the centre of the last cell are exactly equal: in F.interpolate they differ in the last
    bit, so that their ranks would depend on rounding, and so on the batch.
    """
    return _weights(cells, (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels)


def _weights(cells: int, places: Float[Tensor, " pixels"]) -> Float[Tensor, "pixels cells"]:
    """Bilinear weights of the cells at places from 0 (first edge) to `cells` (last edge)."""
    return (1 - ((places - 0.5).clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()).clamp_min(0)


def place(maps: RawMaps, window: tuple[float, float, float, float], size: tuple[int, int]) -> Maps:
    """Resample maps of a part of an image onto the whole, of `size` (rows, cols), bilinearly; NaN outside of the part.

    window: x1, y1, x2, y2 of the part, in pixels of the whole (`Geometry.window`).
    """
    weights = []
    ends = ((window[1], window[3]), (window[0], window[2]))
    for cells, pixels, (start, end) in zip(maps.shape[-2:], size, ends, strict=True):
        places = (torch.arange(pixels, dtype=torch.float64) + 0.5 - start) * cells / (end - start)
        inside = (places >= 0) & (places <= cells)
        weights.append(torch.where(inside[:, None], _weights(cells, places), torch.nan))
    rows, cols = weights
    return (rows @ maps.double() @ cols.T).to(maps.dtype)


def find_flaws(raw: RawMaps) -> tuple[Flags, Flags]:
    """Return which maps hold NaN or infinity, and which are constant, such as all zero."""
    flat = raw.flatten(1)
    nonfinite = ~flat.isfinite().all(dim=1)
    spread = flat.amax(dim=1) - flat.amin(dim=1)
    constant = ~(spread > ROUNDING * flat.abs().amax(dim=1))
    return nonfinite, constant & ~nonfinite


def normalise(raw: RawMaps) -> RawMaps:
    """Divide by the largest magnitude, keeping signs and zeros; constant and non-finite maps become zeros."""
    nonfinite, constant = find_flaws(raw)
    usable = torch.where((nonfinite | constant)[:, None, None], 0, raw)
    peak = usable.abs().amax(dim=(1, 2), keepdim=True)
    return usable / torch.where(peak > 0, peak, 1)


def ranks(maps: Maps) -> Int[Tensor, "batch rows cols"]:
    """Rank of each pixel in descending order of relevance, from 0; ties in raster order for every method."""
    flat = maps.flatten(1)
    on_cpu = flat.dtype == torch.float32 and flat.device.type == "cpu"
    order = argsort_descending(flat) if on_cpu else flat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], dtype=torch.int32, device=maps.device).expand_as(order)
    return torch.empty(order.shape, dtype=torch.int32, device=maps.device).scatter_(1, order, places).view_as(maps)


def argsort_descending(flat: Float[Tensor, "batch pixels"]) -> Int[Tensor, "batch pixels"]:
    """The stable descending order of float32 values, 3 times faster than torch's argsort.

    Numpy sorts 64-bit integers, unstably: the high bits order the values, the low bits hold the raster position, so
    that no two are equal.
    """
    bits = (flat + 0.0).contiguous().view(torch.int32)  # minus zero becomes zero
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = ((~rising).long() << 32) | torch.arange(flat.shape[1])
    return torch.from_numpy(np.sort(keys.numpy(), axis=1)) & 0xFFFFFFFF


def tie_bounds(
    ordered: Float[Tensor, "batch pixels"],
) -> tuple[Int[Tensor, "batch pixels"], Int[Tensor, "batch pixels"]]:
    """First and last position, from 1, of the run of equal values around each value of a sorted row."""
    count = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    step = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(F.pad(step, (1, 0), value=True), count, 1).cummax(dim=1).values
    last = torch.where(F.pad(step, (0, 1), value=True), count, len(count)).flip(1).cummin(dim=1).values.flip(1)
    return first, last
