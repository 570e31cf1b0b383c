"""How alike two maps are, and a method's further maps: of a changed model, query or reference."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws, normalise, ranks, tie_bounds, upsample
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import Maps, RawMaps, Scores
from sfam_bench.metrics.shared.base import Explained, Measured, defined, not_drawn
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import SimilarityModel

Measure = Literal["spearman", "ssim"]
Of = Literal["signed", "magnitude"]
Places: TypeAlias = Float[Tensor, "batch pixels"]

SIGMA, REACH = 1.5, 5  # px, of SSIM's Gaussian window: 11 x 11
STABLE = (0.01, 0.03)  # SSIM's K1 and K2


def places(maps: Maps) -> Places:
    """Place of each pixel in the order of falling relevance from 1; pixels that tie share their mean place."""
    order, flat = ranks(maps).flatten(1).long(), maps.flatten(1)
    values = torch.empty_like(flat).scatter_(1, order, flat)
    first, last = tie_bounds(values)
    return ((first + last).double() / 2).gather(1, order)


def spearman(maps: Maps, others: Maps) -> Scores:
    """Spearman's correlation over pixels, ties as in scipy; exactly 1 for equal maps, NaN where one is constant."""
    return correlation(places(maps), places(others)).to(maps.dtype)


def correlation(one: Places, other: Places) -> Float[Tensor, " batch"]:
    """Pearson's correlation of each row with its like."""
    one, other = (place - place.mean(dim=1, keepdim=True) for place in (one, other))
    spread = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    return ((one * other).sum(dim=1) / spread).clamp(-1, 1)


def ssim(maps: Maps, others: Maps) -> Scores:
    """Mean structural similarity of maps in [0, 1]; Wang et al., TIP 2004, with its window and constants."""
    if min(maps.shape[-2:]) <= 2 * REACH:
        raise UserError(
            f"SSIM has a window of 11 x 11 pixels, more than maps of {tuple(maps.shape[-2:])}: use spearman"
        )
    rows, cols = (windows(side).to(maps) for side in maps.shape[-2:])
    c1, c2 = (k**2 for k in STABLE)
    means = rows @ maps @ cols.T, rows @ others @ cols.T
    squares = rows @ (maps * maps + others * others) @ cols.T
    together = rows @ (maps * others) @ cols.T - means[0] * means[1]
    lightness = means[0] ** 2 + means[1] ** 2
    found = (2 * means[0] * means[1] + c1) * (2 * together + c2) / ((lightness + c1) * (squares - lightness + c2))
    return found.mean(dim=(1, 2)).clamp(-1, 1)


def windows(side: int) -> Float[Tensor, "places pixels"]:
    """Weights of the pixels of a line in each window that lies inside it."""
    far = torch.arange(side, dtype=torch.float64) - torch.arange(REACH, side - REACH)[:, None]
    weights = torch.where(far.abs() <= REACH, torch.exp(-far.square() / (2 * SIGMA**2)), 0)
    return weights / weights.sum(dim=1, keepdim=True)


class Changed(NamedTuple):
    """What a method is asked to explain."""

    model: SimilarityModel
    encoded: Encoded
    pairs: PairBatch


@runtime_checkable
class Change(Protocol):
    """A changed model, query or reference; hashable, so that what several methods and metrics ask is made once."""

    def __hash__(self) -> int: ...

    def __call__(self, scene: Scene) -> Changed:
        """Change a scene."""
        ...


def changed(scene: Scene, change: Change) -> Changed:
    """A scene's change, made once."""
    return scene.cache.once(("change", change), lambda: change(scene))


def further(explained: Explained, change: Change) -> RawMaps:
    """The method's maps under a change, made once."""
    remake = explained.remake
    if remake is None:
        raise ValueError("no further map can be made")
    return explained.further.once(change, lambda: remake(*changed(explained.scene, change)))


def resize_maps(raw: RawMaps, like: Maps) -> Maps:
    """Raw maps as metrics see them: normalised, at the size of the image."""
    return upsample(normalise(raw), (like.shape[-2], like.shape[-1]))


@dataclass(frozen=True)
class Remaking(Checked):
    """What metrics share that ask a method for further maps.

    sampling: also for methods that take forward passes of their own, whose further maps are dear.
    """

    sampling: bool = False

    def __call__(self, explained: Explained) -> Measured:
        if explained.remake is None or (explained.samples and not self.sampling):
            return not_drawn(explained)
        return self.measured(explained)

    def measured(self, explained: Explained) -> Measured:
        """Measure each pair of a method that makes further maps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Comparing(Remaking):
    """The same, for those that compare the map with further ones.

    measure: Spearman's rank correlation over pixels, or SSIM.
    of: the maps as they are, or their magnitudes.
    """

    measure: Measure = "spearman"
    of: Of = "signed"

    @property
    def likeness(self) -> tuple[str, str]:
        """For labels, what of the default measure of likeness is changed."""
        return self.measure.upper() if self.measure == "ssim" else "", self.of if self.of == "magnitude" else ""

    def alike(self, maps: Maps, others: Maps, kept: Cache | None = None) -> Measured:
        """How alike they are; there is nothing to compare where one is constant.

        `kept` is where the places of the first stay for the next comparison, if it is with the same.
        """
        one, other = (maps, others) if self.of == "signed" else (maps.abs(), others.abs())
        if self.measure == "spearman":
            first = (Cache() if kept is None else kept).once(("places", self.of), lambda: places(one))
            found = correlation(first, places(other)).to(maps.dtype)
        else:  # which takes values below zero for bright where both are
            found = ssim(one, other) if self.of == "magnitude" else ssim((one + 1) / 2, (other + 1) / 2)
        return defined(found, {"constant_map": find_flaws(one)[1], "constant_further_map": find_flaws(other)[1]})

    def change(self, explained: Explained, change: Change) -> Measured:
        """How alike the method's map and that under a change are."""
        return self.alike(explained.maps, resize_maps(further(explained, change), explained.maps), explained.further)
