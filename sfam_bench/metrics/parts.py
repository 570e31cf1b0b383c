"""Does a map lie on parts of the object, and on which? A part is the pixel that its keypoint lies in."""

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError, check_choices
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import SHARE, VALUES, MetricCard, label, role
from sfam_bench.core.ranges import NotNegative
from sfam_bench.core.types import KeypointsBatch, Maps, Masks
from sfam_bench.metrics.localisation import energy, within, without_positive_part
from sfam_bench.metrics.shared.base import Explained, Measured, defined, not_drawn

# CUB's, in the order of parts/parts.txt
PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left_eye", "left_leg", "left_wing", "nape"),
    *("right_eye", "right_leg", "right_wing", "tail", "throat"),
)
KINDS = tuple(dict.fromkeys(part.split("_")[-1] for part in PARTS))  # birds face either way: left and right are one
KIND = tuple(KINDS.index(part.split("_")[-1]) for part in PARTS)
FAR = 2**30


@dataclass(frozen=True, eq=False)
class Territories:
    """Of each pixel the nearest visible part, the first of equals, and its distance squared; FAR where none is."""

    part: Int[Tensor, "batch rows cols"]
    distance: Int[Tensor, "batch rows cols"]
    parts: int

    def within(self, tolerance: float) -> Masks:
        """Pixels strictly within `tolerance` px of a visible part, and the part itself."""
        near = (self.distance < tolerance**2) | (self.distance == 0)
        return near & (self.distance < FAR)

    def of(self, name: str) -> Masks:
        """The pixels of one of CUB's parts, or of left and right of a kind."""
        if self.parts != len(PARTS):
            raise UserError(f"part={name} is one of CUB's {len(PARTS)}, and these images have {self.parts} parts")
        wanted = [k for k, part in enumerate(PARTS) if name in (part, part.split("_")[-1])]
        return torch.isin(self.part, self.part.new_tensor(wanted))

    def kinds(self) -> Int[Tensor, "batch rows cols"]:
        """Of each pixel the kind of its part: left and right are one on CUB."""
        return self.part if self.parts != len(PARTS) else self.part.new_tensor(KIND)[self.part.long()]


@lru_cache(maxsize=2)  # query and reference of a batch, the same for all methods and metrics
def territories(keypoints: KeypointsBatch, rows: int, cols: int, device: torch.device) -> Territories:
    """Who is nearest where."""
    x, y = (keypoints[..., axis].floor().int().to(device) for axis in (0, 1))
    visible = (keypoints[..., 2] > 0).to(device)
    across, down = (torch.arange(n, dtype=torch.int32, device=device) for n in (cols, rows))
    nearest = torch.full((len(keypoints), rows, cols), FAR, dtype=torch.int32, device=device)
    part = torch.zeros_like(nearest)
    for k in range(keypoints.shape[1]):
        squares = (down - y[:, k, None]).square()[:, :, None] + (across - x[:, k, None]).square()[:, None, :]
        closer = (squares < nearest) & visible[:, k, None, None]
        nearest, part = torch.where(closer, squares, nearest), torch.where(closer, k, part)
    return Territories(part, nearest, keypoints.shape[1])


def seen(explained: Explained) -> Territories:
    """The territories of an explained image."""
    if explained.scene.pairs.keypoints is None:
        raise ValueError("these images have no keypoints")
    rows, cols = explained.maps.shape[-2:]
    return territories(explained.scene.pairs.keypoints, rows, cols, explained.maps.device)


def at_peak(maps: Maps, values: Int[Tensor, "batch rows cols"] | Masks) -> Tensor:
    """What stands at the peak of each map, the first of equals."""
    return values.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))[:, 0]


def heat_by_part(maps: Maps, keypoints: KeypointsBatch, tolerance: float = inf) -> Float[Tensor, "batch parts"]:
    """Share of each map's positive part that is nearest to each visible part and within `tolerance` px of it.

    Without a tolerance the shares of an image add up to 1; hidden parts have none.
    """
    ground = territories(keypoints, maps.shape[-2], maps.shape[-1], maps.device)
    near = ground.within(tolerance)
    return torch.stack([energy(maps, near & (ground.part == k)) for k in range(ground.parts)], dim=1)


@dataclass(frozen=True)
class PartPointingGame(Checked):
    """1 where the peak is within `tolerance` px of any visible part; the pointing game of Zhang et al., IJCV 2018.

    value: "hit", or its "chance" level: the share of the image that would be one.
    tolerance: px, strict; the part's own pixel always counts.
    """

    needs: ClassVar[tuple[str, ...]] = ("keypoints",)

    tolerance: NotNegative = 15.0
    value: Literal["hit", "chance"] = "hit"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        hit = "does the peak lie on a visible part?"
        return MetricCard(
            range=SHARE,
            group="Localisation",
            label=label("part pointing game", within(self.tolerance), VALUES.get(self.value, "")),
            meaning=hit if self.value == "hit" else "share of the image that lies on a visible part",
            family="part_pointing_game",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        near = seen(explained).within(self.tolerance)
        values = near.to(explained.maps.dtype).mean(dim=(1, 2))
        if self.value == "hit":
            values = at_peak(explained.maps, near).to(values)
        return defined(values, {"no_parts": ~near.flatten(1).any(dim=1)})


@dataclass(frozen=True)
class SamePart(Checked):
    """1 where the peaks of query's and reference's maps are nearest to the same visible part; defined here.

    Left and right eyes, legs and wings are the same part on CUB, for birds face either way. A pair whose reference has
    no map is left alone.

    value: "same", or its "chance" level: how often two points at random would be.
    """

    needs: ClassVar[tuple[str, ...]] = ("keypoints",)

    value: Literal["same", "chance"] = "same"
    higher_is_better: bool | None = True  # null for "chance"

    @property
    def card(self) -> MetricCard:
        same = "do the peaks of both images of a pair lie on the same part?"
        return MetricCard(
            range=SHARE,
            remakes=1,
            degenerate=("it is 1 where each image shows the same one part and no other",),
            group="Metrics that see the pair",
            label=label("same part", VALUES.get(self.value, "")),
            meaning=same if self.value == "same" else "how often two random points of a pair lie on the same part",
            family="same_part",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        other = explained.other
        if other is None or other.raw is None:
            return not_drawn(explained)
        hidden = [~seen(side).within(inf).flatten(1).any(dim=1) for side in (explained, other)]
        unsound = torch.stack(find_flaws(other.raw)).any(dim=0)
        reasons = {"no_parts": torch.stack(hidden).any(dim=0), "reference_map": unsound}
        sides = [(side.maps, seen(side).kinds()) for side in (explained, other)]
        if self.value == "same":
            first, second = (at_peak(maps, kinds) for maps, kinds in sides)
            values = (first == second).to(explained.maps.dtype)
        else:
            count = 1 + max(int(kinds.max()) for _, kinds in sides)
            shares = [torch.stack([(kinds == k).double().mean(dim=(1, 2)) for k in range(count)]) for _, kinds in sides]
            values = (shares[0] * shares[1]).sum(dim=0).to(explained.maps.dtype)
        return defined(values, reasons)


@dataclass(frozen=True)
class PartEnergy:
    """Share of the positive map within `tolerance` px of visible parts; the energy of Wang et al., CVPRW 2020.

    A pixel belongs to the nearest visible part, so that the shares of all parts add up to that of any.

    part: one of CUB's parts, such as beak or left_eye; eye, leg and wing are left and right; null for any part.
    value: "share", its "chance" level (the area's share), or their "ratio".
    tolerance: px, strict; the part's own pixel always counts.
    """

    needs: ClassVar[tuple[str, ...]] = ("keypoints",)

    part: str | None = None
    tolerance: NotNegative = 15.0
    value: Literal["share", "chance", "ratio"] = "share"
    higher_is_better: bool | None = True  # null for "chance", and for one part

    def __post_init__(self) -> None:
        check_choices(self)
        if self.part is not None and self.part not in (*PARTS, *KINDS):
            raise UserError(f"PartEnergy.part is {self.part!r}: choose one of {', '.join(KINDS)}, or null")

    @property
    def card(self) -> MetricCard:
        meanings = {
            "share": f"share of the positive map near {self.part or 'visible parts'}",
            "chance": f"share of the image near {self.part or 'visible parts'}",
            "ratio": f"share of the positive map near {self.part or 'visible parts'}, over the share of the area",
        }
        any_part = self.part is None
        return MetricCard(
            range=(0, inf) if self.value == "ratio" else SHARE,
            group="Localisation" if any_part else "Heat by part",
            label=label("part energy", VALUES.get(self.value, "")) if any_part else self._part_label,
            meaning=meanings[self.value] + ("" if any_part else ": where the heat lies, no score"),
            family="part_energy" if any_part else "part_heat" if self.value == "ratio" else f"part_{self.value}",
            role=role(self.value),
        )

    @property
    def _part_label(self) -> str:
        """Of one part, which stands in a table of its own: the part."""
        return label(str(self.part).replace("_", " "), "" if self.value == "ratio" else self.value)

    def region(self, explained: Explained) -> Masks:
        """Where the energy counts."""
        ground = seen(explained)
        near = ground.within(self.tolerance)
        return near if self.part is None else near & ground.of(self.part)

    def __call__(self, explained: Explained) -> Measured:
        region = self.region(explained)
        share, chance = energy(explained.maps, region), region.to(explained.maps.dtype).mean(dim=(1, 2))
        values = {"share": share, "chance": chance, "ratio": share / chance}[self.value]
        reasons = {"no_parts": ~region.flatten(1).any(dim=1), "no_positive_part": without_positive_part(explained)}
        return defined(values, reasons)
