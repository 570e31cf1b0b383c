"""Similarity of two maps, and maps of a changed model, query or reference."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws, normalise, ranks, tie_bounds, upsample
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import Flags, Maps, RawMaps, Scores
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_records
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import SimilarityModel

Measure = Literal["spearman", "ssim"]
Of = Literal["signed", "magnitude"]
Places: TypeAlias = Float[Tensor, "batch pixels"]

SIGMA, REACH = 1.5, 5  # px, of SSIM's Gaussian window: 11 x 11
STABLE = (0.01, 0.03)  # SSIM's K1 and K2


def average_ranks(maps: Maps) -> Places:
    """Rank of each pixel in descending order of relevance, from 1; tied pixels have their mean rank."""
    order, flat = ranks(maps).flatten(1).long(), maps.flatten(1)
    values = torch.empty_like(flat).scatter_(1, order, flat)
    first, last = tie_bounds(values)
    return ((first + last).double() / 2).gather(1, order)


def spearman(maps: Maps, others: Maps) -> Scores:
    """Spearman's correlation over pixels, ties as in scipy; exactly 1 for equal maps, NaN where one is constant."""
    return correlation(average_ranks(maps), average_ranks(others)).to(maps.dtype)


def correlation(one: Places, other: Places) -> Float[Tensor, " batch"]:
    """Pearson's correlation of each row of one with that of the other."""
    one, other = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (one, other))
    spread = (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
    return ((one * other).sum(dim=1) / spread).clamp(-1, 1)


def ssim(maps: Maps, others: Maps) -> Scores:
    """Mean structural similarity of maps in [0, 1]; Wang et al., TIP 2004, with their window and constants."""
    if min(maps.shape[-2:]) <= 2 * REACH:
        raise UserError(f"SSIM needs maps of at least 11 x 11 pixels, not {tuple(maps.shape[-2:])}: use spearman")
    rows, cols = (windows(side).to(maps) for side in maps.shape[-2:])
    c1, c2 = (k**2 for k in STABLE)
    means = rows @ maps @ cols.T, rows @ others @ cols.T
    squares = rows @ (maps * maps + others * others) @ cols.T
    together = rows @ (maps * others) @ cols.T - means[0] * means[1]
    lightness = means[0] ** 2 + means[1] ** 2
    found = (2 * means[0] * means[1] + c1) * (2 * together + c2) / ((lightness + c1) * (squares - lightness + c2))
    return found.mean(dim=(1, 2)).clamp(-1, 1)


def windows(side: int) -> Float[Tensor, "places pixels"]:
    """Weights of the pixels of an axis in each window inside it."""
    far = torch.arange(side, dtype=torch.float64) - torch.arange(REACH, side - REACH)[:, None]
    weights = torch.where(far.abs() <= REACH, torch.exp(-far.square() / (2 * SIGMA**2)), 0)
    return weights / weights.sum(dim=1, keepdim=True)


class Changed(NamedTuple):
    """The model, pairs and encodings of a changed scene."""

    model: SimilarityModel
    encoded: Encoded
    pairs: PairBatch


@runtime_checkable
class Change(Protocol):
    """A change of model, query or reference; hashable, so that methods and metrics share its result."""

    def __hash__(self) -> int: ...

    def __call__(self, scene: Scene) -> Changed:
        """Change a scene."""
        ...


def apply_change(scene: Scene, change: Change) -> Changed:
    """The changed scene, computed once."""
    return scene.cache.once(("change", change), lambda: change(scene))


def remake_maps(explained: Explained, change: Change) -> RawMaps:
    """The method's maps of the changed scene, computed once."""
    remake = explained.remake
    if remake is None:
        raise ValueError("these maps cannot be computed again")
    return explained.further.once(change, lambda: remake(*apply_change(explained.scene, change)))


def resize_maps(raw: RawMaps, like: Maps) -> Maps:
    """Raw maps, normalised and upsampled to the size of the image."""
    return upsample(normalise(raw), (like.shape[-2], like.shape[-1]))


def flag_further(found: Measured, flawed: Flags) -> Measured:
    """No value where a further map is not finite."""
    return mask_values(found.values, {"nonfinite_further_map": flawed, **found.reasons})


@dataclass(frozen=True)
class Remaking(Checked):
    """A metric that computes further maps by the method.

    expensive: also for methods each of whose maps takes many passes.
    """

    expensive: bool = False

    def __call__(self, explained: Explained) -> Measured:
        if explained.remake is None or (explained.expensive and not self.expensive):
            return no_records(explained)
        return self.measure_remakes(explained)

    def measure_remakes(self, explained: Explained) -> Measured:
        """Measure each pair of a method whose maps can be computed again."""
        raise NotImplementedError


@dataclass(frozen=True)
class Comparing(Remaking):
    """A metric that compares maps with further maps.

    measure: Spearman's rank correlation over pixels, or SSIM.
    of: signed maps, or their magnitudes.
    """

    measure: Measure = "spearman"
    of: Of = "signed"

    @property
    def likeness(self) -> tuple[str, str]:
        """For labels, the settings that differ from the default."""
        return self.measure.upper() if self.measure == "ssim" else "", self.of if self.of == "magnitude" else ""

    def compare(self, maps: Maps, others: Maps, cache: Cache | None = None) -> Measured:
        """The similarity of two maps; undefined where one is constant. `cache` keeps the ranks of `maps`."""
        one, other = (maps, others) if self.of == "signed" else (maps.abs(), others.abs())
        if self.measure == "spearman":
            first = (Cache() if cache is None else cache).once(("ranks", self.of), lambda: average_ranks(one))
            found = correlation(first, average_ranks(other)).to(maps.dtype)
        else:  # SSIM is defined for values in [0, 1]
            found = ssim(one, other) if self.of == "magnitude" else ssim((one + 1) / 2, (other + 1) / 2)
        return mask_values(found, {"constant_map": find_flaws(one)[1], "constant_further_map": find_flaws(other)[1]})

    def compare_changed(self, explained: Explained, change: Change) -> Measured:
        """The similarity of the method's map and that of the changed scene."""
        raw = remake_maps(explained, change)
        found = self.compare(explained.maps, resize_maps(raw, explained.maps), explained.further)
        return flag_further(found, find_flaws(raw)[0])
