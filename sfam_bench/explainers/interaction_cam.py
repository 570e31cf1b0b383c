"""Interaction-CAM: channels that are strong in both images."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import swap_sides
from sfam_bench.core.types import Activations, Pooled, RawMaps
from sfam_bench.explainers.shared.forms import target_gradient
from sfam_bench.explainers.shared.points import only_reference
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class InteractionCAM(Checked):
    """sum_k J_k relu(G_k) A_k, J_k = r(A_k) r(B_k), G = ds/dA; Sammani, Joukovsky, Deligiannis, TIP 2023.

    reduction: r, of the positions of a channel: their "mean", their "max", or "attention", the mean of the positions
        weighted by the softmax of their products with it.
    gradients: "own" takes G at each position; "interacting" takes for each channel of the query its greatest sum over
        positions of products with the gradient of a channel of the reference, which needs grids of one size.
    """

    card: ClassVar[Card] = Card(
        one_image=True,
        margin=False,
        identities=("with weights J of one it is LayerCAM without the ReLU of its map",),
        degenerate=(
            "a channel counts by its activation three times and by its gradient: strong channels dominate",
            "channels with a negative gradient are dropped, so that on cosine only those below their share remain",
        ),
    )

    reduction: Literal["mean", "max", "attention"] = "mean"
    gradients: Literal["own", "interacting"] = "own"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query, reference = (side.activations for side in (encoded.query, only_reference(encoded)))
        gradient = target_gradient(model, encoded)
        if self.gradients == "interacting":
            gradient = interact(gradient, target_gradient(model, swap_sides(encoded)))
        joint = self._reduce(query) * self._reduce(reference)
        return (joint[:, :, None, None] * gradient.relu() * query).sum(dim=1)

    def _reduce(self, activations: Activations) -> Pooled:
        if self.reduction == "max":
            return activations.amax(dim=(2, 3))
        mean = activations.mean(dim=(2, 3))
        if self.reduction == "mean":
            return mean
        positions = activations.flatten(2)
        shares = torch.einsum("bk,bkn->bn", mean, positions).softmax(dim=1)
        return torch.einsum("bn,bkn->bk", shares, positions)


def interact(
    gradient: Activations, other: Float[Tensor, "batch other_channels other_rows other_cols"]
) -> Float[Tensor, "batch channels 1 1"]:
    """For each channel, the greatest inner product of its gradient with that of a channel of the other image."""
    if gradient.shape[2:] != other.shape[2:]:
        raise UserError("interaction_cam's gradients=interacting needs two images of one size: use gradients=own")
    products = gradient.flatten(2) @ other.flatten(2).mT
    return products.amax(dim=2)[:, :, None, None]
