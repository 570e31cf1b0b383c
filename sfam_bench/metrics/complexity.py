"""How concentrated a map is. None has a direction: a map of one pixel at random is as concentrated as can be."""

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
from sfam_bench.metrics.shared.base import Explained, Measured, defined

Of = Literal["magnitude", "positive"]


def parts(maps: Maps, of: Of) -> Float[Tensor, "batch pixels"]:
    """What of each pixel counts, in float64."""
    flat = maps.flatten(1).double()
    return flat.abs() if of == "magnitude" else flat.clamp_min(0)


def gini(weights: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
    """Gini's index of each row: 0 where all are equal, 1 - 1/n where one has it all; NaN of nothing."""
    n = weights.shape[1]
    places = 2 * torch.arange(1, n + 1, device=weights.device, dtype=weights.dtype) - n - 1
    return weights.sort(dim=1).values @ places / (n * weights.sum(dim=1))


def entropy(weights: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
    """Entropy in nats of each row's shares; NaN of nothing."""
    return torch.special.entr(weights / weights.sum(dim=1, keepdim=True)).sum(dim=1)


@dataclass(frozen=True)
class _OfMap(Checked):
    of: Of = "magnitude"
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    def _card(self, limits: Limits, name: str, meaning: str) -> MetricCard:
        named = label(name, "" if self.of == "magnitude" else "positive part")
        return MetricCard(range=limits, group="Complexity and completeness", label=named, meaning=meaning)

    def _defined(self, values: Float[Tensor, " batch"], explained: Explained) -> Measured:
        nothing = ~parts(explained.maps, self.of).any(dim=1)
        reason = "constant_map" if self.of == "magnitude" else "no_positive_part"
        return defined(values.to(explained.maps.dtype), {reason: nothing})


@dataclass(frozen=True)
class Gini(_OfMap):
    """Gini's index of the map at the size of the image, which Quantus calls Sparseness; Chalasani et al., ICML 2020.

    0 is a flat map, 1 a single pixel. Quantus takes more for better; here it has no direction, since it says nothing of
    where the map lies.

    of: magnitudes, as Quantus by default, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card(SHARE, "Gini index", "Gini index of the map: 0 even, 1 in one pixel")

    def __call__(self, explained: Explained) -> Measured:
        return self._defined(gini(parts(explained.maps, self.of)), explained)


@dataclass(frozen=True)
class Entropy(_OfMap):
    """Entropy in nats of the map's shares over pixels, which Quantus calls Complexity; Bhatt et al., IJCAI 2020.

    At most the logarithm of the number of pixels, which ties it to the size of the image. Quantus takes less for
    better; here it has no direction, since it says nothing of where the map lies.

    of: magnitudes, as Quantus by default, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card((0, inf), "entropy", "entropy of the map in nats")

    def __call__(self, explained: Explained) -> Measured:
        return self._defined(entropy(parts(explained.maps, self.of)), explained)


@dataclass(frozen=True)
class EffectiveArea(_OfMap):
    """Share of the image that a flat map of the same entropy would cover, exp(entropy) over pixels; defined here.

    1 is a flat map, 1 over the number of pixels a single one: the entropy in a unit that one can see.

    of: magnitudes, or the positive part.
    """

    @property
    def card(self) -> MetricCard:
        return self._card(SHARE, "effective area", "share of the image over which the map is spread, by its entropy")

    def __call__(self, explained: Explained) -> Measured:
        weights = parts(explained.maps, self.of)
        return self._defined((entropy(weights) - math.log(weights.shape[1])).exp(), explained)
