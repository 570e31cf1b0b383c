"""Thresholds of acceptance, calibrated on half of the classes and measured on the other half."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.verification import Flags, Values, calibrate

MOST = 3000  # images of each half, whose pairs are all compared
RATES = (0.01, 0.001)  # false accepts


def find_thresholds(
    similarity: SimilarityFunction, gallery: Gallery, labels: Int[Tensor, " items"]
) -> dict[str, dict[str, Any]]:
    """The threshold at equal errors and at each of RATES, with the rates that it has on the other half of the classes.

    Classes in order of their label are dealt to both halves in turn; at most MOST images of each are compared, evenly
    spread, and "images" counts them. A rate that no threshold reaches is left out.
    """
    _, number = labels.unique(return_inverse=True)
    if int(number.max()) < 3:
        raise UserError(f"thresholds need four classes, two in each half, not {int(number.max()) + 1}")
    chosen = [_spread((number % 2 == half).nonzero()[:, 0]) for half in (0, 1)]
    halves = [_pairs(similarity, gallery, number, rows) for rows in chosen]
    found: dict[str, dict[str, Any]] = {"images": {"compared": sum(map(len, chosen)), "all": len(labels)}}
    for name, far in (("equal_error", None), *((f"far_{rate:g}", rate) for rate in RATES)):
        try:
            threshold = calibrate(*halves[0], far)
        except UserError:
            if far is None:
                raise
            continue
        scores, same = halves[1]
        accepted = scores >= threshold
        found[name] = {
            "threshold": threshold,
            "false_accepts": float(accepted[~same].mean()),
            "true_accepts": float(accepted[same].mean()),
        }
    return found


def _spread(rows: Int[Tensor, " rows"]) -> Int[Tensor, " some"]:
    """At most MOST rows, evenly spread."""
    return rows if len(rows) <= MOST else rows[torch.linspace(0, len(rows) - 1, MOST).round().long()]


def _pairs(
    similarity: SimilarityFunction, gallery: Gallery, number: Int[Tensor, " items"], rows: Int[Tensor, " some"]
) -> tuple[Values, Flags]:
    """The score of each two of these images, and whether they are of one class."""
    first, second = np.triu_indices(len(rows), 1)
    scores = similarity.matrix(gallery[rows], gallery[rows]).numpy()[first, second]
    classes = number[rows].numpy()
    return scores, classes[first] == classes[second]
