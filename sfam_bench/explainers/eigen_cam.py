"""Eigen-CAM: the first principal component of the query's activations."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import Activations, RawMaps
from sfam_bench.models.similarity_model import SimilarityModel

Sign = Literal["channel_sum", "largest"]


@dataclass(frozen=True)
class EigenCAM(Checked):
    """M v, M the activations (positions x channels), v their first right singular vector; Muhammad, Yeasin, IJCNN 2020.

    The sign of a singular vector is arbitrary in LAPACK, which inverts some maps; here it is chosen by `sign`.

    centre: subtract each channel's mean over positions first, as pytorch-grad-cam does and the paper does not.
    sign: "channel_sum" gives the map a non-negative inner product with the sum of the channels, "largest" makes the
        entry of the largest magnitude positive, as Seg-Eigen-CAM does (Chung, Ying, Applied Sciences 2025, eq. 13).
    """

    card: ClassVar[Card] = Card(
        reads_reference=False,
        identities=("on activations of rank one it is proportional to every channel, and to LaFAM",),
        degenerate=(
            "it explains the query, not the pair, since it ignores the reference",
            "if centred, the map is zero for activations that are constant over positions and for a single position",
            "where the two largest singular values are equal, the component is arbitrary",
        ),
    )

    centre: bool = False
    sign: Sign = "channel_sum"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return first_component(encoded.query.activations, self.centre, self.sign)


def first_component(features: Activations, centre: bool, sign: Sign) -> RawMaps:
    """The projection of each position on the first principal axis of the channels; NaN where a feature is not finite.

    From the smaller of the two Gram matrices, in float64, so that squaring loses no precision of float32.
    """
    matrix = features.detach().flatten(2).transpose(1, 2).double()
    finite = matrix.isfinite().all(dim=2, keepdim=True).all(dim=1, keepdim=True)
    matrix = torch.where(finite, matrix, 0)
    if centre:
        matrix = matrix - matrix.mean(dim=1, keepdim=True)
    by_position = matrix.shape[1] <= matrix.shape[2]
    gram = matrix @ matrix.mT if by_position else matrix.mT @ matrix
    values, vectors = torch.linalg.eigh(gram)
    axis = vectors[:, :, -1:]
    component = (axis * values[:, -1:, None].clamp_min(0).sqrt() if by_position else matrix @ axis)[:, :, 0]
    if sign == "channel_sum":
        negative = (component * matrix.sum(dim=2)).sum(dim=1) < 0
    else:
        negative = component.amin(dim=1) + component.amax(dim=1) < 0
    maps = torch.where(negative[:, None], -component, component)
    return torch.where(finite[:, 0], maps, torch.nan).view(len(maps), *features.shape[-2:]).to(features.dtype)
