"""Over many references of one query: does relevance follow the similarity of each part?"""

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.maps import ROUNDING
from sfam_bench.core.types import Keypoints, Maps


def relevance_near_parts(maps: Maps, keypoints: Keypoints, sigma: float) -> Float[Tensor, "batch parts"]:
    """Mean of each signed map, weighted by a Gaussian of `sigma` px around each part within the image.

    NaN for hidden parts.
    """
    rows, cols = (torch.arange(n, device=maps.device) + 0.5 for n in maps.shape[-2:])
    x, y, visible = keypoints.to(maps.device, torch.float64).T
    down, across = (
        (-(centres - at[:, None]).square() / (2 * sigma**2)).softmax(dim=1) for centres, at in ((rows, y), (cols, x))
    )
    near = torch.einsum("bij,pi,pj->bp", maps.double(), down, across)
    return torch.where(visible > 0, near, torch.nan)


def rank_agreement(
    relevance: Float[np.ndarray, "refs parts"], agreement: Float[np.ndarray, "refs parts"]
) -> tuple[float, str]:
    """Spearman's correlation over references of relevance and agreement, averaged over parts, or a reason without one.

    Both are centred over the parts of each reference first, so that parts are compared with each other. A part that is
    hidden in the query, or equally similar in all references, is left out; a part whose relevance does not change with
    the reference counts as 0.
    """
    visible = np.isfinite(relevance).any(axis=0)
    usable = np.isfinite(relevance).all(axis=0) & np.isfinite(agreement).all(axis=0)
    if visible.sum() < 2:
        return np.nan, "few_parts"
    if len(relevance) < 3:
        return np.nan, "few_references"
    if usable.sum() < 2:
        return np.nan, "unknown_parts"
    # smaller ranges are rounding: of a map that ignores the reference, of equal histograms
    least = ROUNDING * np.abs(relevance[:, usable]).max()
    relevance, agreement = (_centre(table[:, usable], axis=1) for table in (relevance, agreement))
    agreement = agreement.round(9)  # so that rounding does not break ties
    differs, moves = np.ptp(agreement, axis=0) > 0, np.ptp(relevance, axis=0) > least
    if not differs.any():
        return np.nan, "equal_references"
    first, second = (
        _centre(scipy.stats.rankdata(table[:, differs], axis=0), axis=0) for table in (relevance, agreement)
    )
    lengths = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    found = (first * second).sum(axis=0) / np.where(lengths > 0, lengths, 1)
    return float(np.where(moves[differs], found, 0.0).mean()), ""


def _centre(table: Float[np.ndarray, "refs parts"], axis: int) -> Float[np.ndarray, "refs parts"]:
    return table - table.mean(axis=axis, keepdims=True)
