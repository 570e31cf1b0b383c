"""Points and weights of integrals over a straight path, t in [0, 1]."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Quadrature: TypeAlias = Literal["right", "midpoint", "gauss_legendre"]


def nodes(rule: Quadrature, steps: int, like: Tensor) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """The points at which to evaluate the integrand, and their weights, which sum to one."""
    if rule == "gauss_legendre":
        at, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((at + 1) / 2).to(like), torch.from_numpy(weights / 2).to(like)
    at = (np.arange(steps) + (0.5 if rule == "midpoint" else 1.0)) / steps
    return torch.from_numpy(at).to(like), like.new_full((steps,), 1 / steps)
