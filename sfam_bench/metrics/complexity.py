"""How concentrated a map is; without a direction, since a random single pixel is maximally concentrated."""

import math
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import SHARE, Limits, MetricCard, label
from sfam_bench.core.types import Maps
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values

Of = Literal["magnitude", "positive"]


def parts(maps: Maps, of: Of) -> Float[Tensor, "batch pixels"]:
    """The magnitude or positive part of each pixel, in float64."""
    flat = maps.flatten(1).double()
    return flat.abs() if of == "magnitude" else flat.clamp_min(0)


def gini(weights: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
    """Gini's index of each row: 0 where all are equal, 1 - 1/n for a single non-zero; NaN for zeros."""
    n = weights.shape[1]
    places = 2 * torch.arange(1, n + 1, device=weights.device, dtype=weights.dtype) - n - 1
    return weights.sort(dim=1).values @ places / (n * weights.sum(dim=1))


def entropy(weights: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
    """Entropy in nats of each row's shares; NaN for zeros."""
    return torch.special.entr(weights / weights.sum(dim=1, keepdim=True)).sum(dim=1)


@dataclass(frozen=True)
class _OfMap(Checked):
    of: Of = "magnitude"
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    def _card(self, limits: Limits, name: str, meaning: str) -> MetricCard:
        named = label(name, "" if self.of == "magnitude" else "positive part")
        return MetricCard(range=limits, group="Complexity and completeness", label=named, meaning=meaning)

    def _mask_empty(self, values: Float[Tensor, " batch"], explained: Explained) -> Measured:
        empty = ~parts(explained.maps, self.of).any(dim=1)
        reason = "constant_map" if self.of == "magnitude" else "no_positive_part"
        return mask_values(values.to(explained.maps.dtype), {reason: empty})


@dataclass(frozen=True)
class Gini(_OfMap):
    """Gini's index of the map at the size of the image, which Quantus calls Sparseness; Chalasani et al., ICML 2020.

    0 is a flat map, 1 a single pixel. In Quantus higher is better; here it has no direction, since it ignores where the
    map lies.

    of: magnitudes, as in Quantus by default, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card(SHARE, "Gini index", "Gini index of the map: 0 even, 1 in one pixel")

    def __call__(self, explained: Explained) -> Measured:
        return self._mask_empty(gini(parts(explained.maps, self.of)), explained)


@dataclass(frozen=True)
class Entropy(_OfMap):
    """Entropy in nats of the map's shares over pixels, which Quantus calls Complexity; Bhatt et al., IJCAI 2020.

    At most the logarithm of the number of pixels, so that it depends on the size of the image. In Quantus lower is
    better; here it has no direction, since it ignores where the map lies.

    of: magnitudes, as in Quantus by default, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card((0, inf), "entropy", "entropy of the map in nats")

    def __call__(self, explained: Explained) -> Measured:
        return self._mask_empty(entropy(parts(explained.maps, self.of)), explained)


@dataclass(frozen=True)
class EffectiveArea(_OfMap):
    """Share of the image that a flat map of the same entropy would cover, exp(entropy) over pixels; defined here.

    1 is a flat map, 1 over the number of pixels a single pixel: entropy as a share of the image.

    of: magnitudes, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card(SHARE, "effective area", "share of the image over which the map is spread, by its entropy")

    def __call__(self, explained: Explained) -> Measured:
        weights = parts(explained.maps, self.of)
        return self._mask_empty((entropy(weights) - math.log(weights.shape[1])).exp(), explained)
