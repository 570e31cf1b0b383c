"""Over many references of one query: does the map go to the parts that the two birds share?"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from sfam_bench.maps import ROUNDING
from sfam_bench.types import Keypoints, Maps


def mass_near_parts(maps: Maps, keypoints: Keypoints, sigma: float) -> Float[Tensor, "batch parts"]:
    """Share of each map's positive part under a Gaussian of `sigma` px about each part.

    NaN for hidden parts and for maps without a positive part.
    """
    rows, cols = (torch.arange(n, device=maps.device) + 0.5 for n in maps.shape[-2:])
    x, y, visible = keypoints.to(maps).T
    down, across = (
        torch.exp(-(centres - at[:, None]).square() / (2 * sigma**2)) for centres, at in ((rows, y), (cols, x))
    )
    positive = maps.clamp_min(0)
    near = torch.einsum("bij,pi,pj->bp", positive, down, across) / positive.sum(dim=(1, 2))[:, None]
    return torch.where(visible > 0, near, torch.nan)


def rank_agreement(mass: Float[np.ndarray, "refs parts"], agreement: Float[np.ndarray, "refs parts"]) -> float:
    """Spearman's correlation over references of mass and agreement, mean over parts.

    A part whose mass does not change with the reference counts 0; one that is hidden or equally alike everywhere does
    not count; NaN where none does. References without a map are left out.
    """
    there = np.isfinite(mass).any(axis=1)
    mass, agreement = mass[there], agreement[there]
    usable = np.isfinite(mass).all(axis=0) & np.isfinite(agreement).all(axis=0)
    if len(mass) < 2 or not usable.any():
        return float("nan")
    mass, agreement = mass[:, usable], agreement[:, usable]
    told = np.ptp(agreement, axis=0) > 0
    moves = np.ptp(mass, axis=0) > ROUNDING * np.abs(mass).max(axis=0)  # less is the rounding of a blind map's sums
    first, second = (rankdata(values, axis=0) for values in (mass, agreement))
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    lengths = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    correlation = np.where(moves, (first * second).sum(axis=0) / np.where(lengths > 0, lengths, 1), 0.0)
    return float(correlation[told].mean()) if told.any() else float("nan")
