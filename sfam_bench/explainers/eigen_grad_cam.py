"""Eigen-CAM of activations times gradients."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.eigen_cam import Sign, first_component
from sfam_bench.explainers.shared.forms import target_gradient
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class EigenGradCAM(Checked):
    """M v, M = ds/dA * A (positions x channels), v their first right singular vector; Gildenblat, pytorch-grad-cam.

    There is no paper: the code is the source. Its sign is LAPACK's and arbitrary, so that it may show negative
    evidence.

    centre: subtract each channel's mean over positions first, as the source does.
    sign: "channel_sum" gives the map a non-negative inner product with HiResCAM's, the sum of the channels of M;
        "largest" makes the entry of the largest magnitude positive, which may be negative evidence.
    """

    card: ClassVar[Card] = Card(
        identities=("where M has rank one it is proportional to HiResCAM",),
        degenerate=(
            "the component of the largest variance need not contribute to the score",
            "if centred, the map is zero where M is constant over positions and for a single position",
            "the negative of a target has the same component, with the opposite sign",
        ),
    )

    centre: bool = True
    sign: Sign = "channel_sum"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return first_component(target_gradient(model, encoded) * encoded.query.activations, self.centre, self.sign)
