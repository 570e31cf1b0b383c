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

    No paper: the code is the source. It leaves the sign to chance (LAPACK's), so that it can show what speaks against.

    centre: subtract each channel's mean over positions first, as the source does.
    sign: "channel_sum" lets the map agree with HiResCAM's, the sum of the channels of M; "largest" makes the entry of
        the largest magnitude positive, which may be one that speaks against.
    """

    card: ClassVar[Card] = Card(
        identities=("where M has rank one it is proportional to HiResCAM",),
        degenerate=(
            "the component of the largest spread need not be what the score comes from",
            "centred and constant over positions, or on a single position, the map is zero",
            "turning the target's sign round does not change the component, only the sign of the map",
        ),
    )

    centre: bool = True
    sign: Sign = "channel_sum"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return first_component(target_gradient(model, encoded) * encoded.query.activations, self.centre, self.sign)
