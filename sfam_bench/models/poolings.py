"""Poolings of each channel to a number; homogeneous of degree one, so that sum_ij A_ij dp/dA_ij = p (Euler)."""

import torch
from torch import nn

from sfam_bench.core.errors import check_range
from sfam_bench.core.ranges import Positive
from sfam_bench.core.types import Activations, Pooled


class GAP(nn.Module):
    """Mean over positions."""

    def forward(self, activations: Activations) -> Pooled:
        return activations.mean(dim=(2, 3))


class Own(GAP):
    """The network's own pooling and what it computes behind it; the mean where it has no embedding of its own."""


class GMP(nn.Module):
    """Maximum over positions; the gradient goes to one argmax (`max`, not `amax`, which would share it among ties)."""

    def forward(self, activations: Activations) -> Pooled:
        return activations.flatten(2).max(dim=2).values


class GAPGMP(nn.Module):
    """Mean plus maximum (Proxy-Anchor's head)."""

    def forward(self, activations: Activations) -> Pooled:
        return activations.mean(dim=(2, 3)) + activations.flatten(2).max(dim=2).values


class GeM(nn.Module):
    """Generalised mean, (mean A^p)^(1/p), of activations clamped at `eps` (Radenovic et al., TPAMI 2019)."""

    def __init__(self, p: Positive = 3.0, eps: Positive = 1e-6, learnable: bool = False) -> None:
        super().__init__()
        check_range("pooling.p", p, Positive)
        check_range("pooling.eps", eps, Positive)
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=learnable)
        self.eps = eps

    def forward(self, activations: Activations) -> Pooled:
        powers = activations.clamp_min(self.eps).pow(self.p)
        return powers.mean(dim=(2, 3), keepdim=True).pow(1 / self.p).flatten(1)  # p may be (1, 1, 1, 1)


BY_CHANNEL = (GAP, GMP, GAPGMP, GeM)  # poolings of single channels
