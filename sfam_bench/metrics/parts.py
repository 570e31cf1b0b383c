"""Localisation on parts of the object; a part is the pixel of its keypoint."""

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import SHARE, VALUES, MetricCard, label, role
from sfam_bench.core.ranges import NotNegative
from sfam_bench.core.types import KeypointsBatch, Maps, Masks
from sfam_bench.metrics.localisation import energy_value, format_tolerance, without_positive_part
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_records

# CUB's, in the order of parts/parts.txt
PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left_eye", "left_leg", "left_wing", "nape"),
    *("right_eye", "right_leg", "right_wing", "tail", "throat"),
)
KINDS = tuple(dict.fromkeys(part.split("_")[-1] for part in PARTS))  # left and right are one kind
KIND = tuple(KINDS.index(part.split("_")[-1]) for part in PARTS)
FAR = 2**30


@dataclass(frozen=True, eq=False)
class Territories:
    """For each pixel the nearest visible part (the first of equals) and its squared distance; FAR without one."""

    part: Int[Tensor, "batch rows cols"]
    distance: Int[Tensor, "batch rows cols"]
    parts: int

    def within(self, tolerance: float) -> Masks:
        """Pixels strictly within `tolerance` px of a visible part, and the part itself."""
        near = (self.distance < tolerance**2) | (self.distance == 0)
        return near & (self.distance < FAR)

    def of(self, name: str) -> Masks:
        """The pixels of one of CUB's parts, or of a kind (left and right)."""
        if self.parts != len(PARTS):
            raise UserError(f"part={name} needs CUB's {len(PARTS)} parts, but these images have {self.parts}")
        wanted = [k for k, part in enumerate(PARTS) if name in (part, part.split("_")[-1])]
        return torch.isin(self.part, self.part.new_tensor(wanted))

    def kinds(self) -> Int[Tensor, "batch rows cols"]:
        """For each pixel the kind of its part: left and right are one on CUB."""
        return self.part if self.parts != len(PARTS) else self.part.new_tensor(KIND)[self.part.long()]


@lru_cache(maxsize=2)  # for query and reference of a batch
def territories(keypoints: KeypointsBatch, rows: int, cols: int, device: torch.device) -> Territories:
    """The nearest visible part of each pixel."""
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


def territories_of(explained: Explained) -> Territories:
    """The territories of the explained image."""
    if explained.scene.pairs.keypoints is None:
        raise ValueError("these images have no keypoints")
    rows, cols = explained.maps.shape[-2:]
    return territories(explained.scene.pairs.keypoints, rows, cols, explained.maps.device)


def at_peak(maps: Maps, values: Int[Tensor, "batch rows cols"] | Masks) -> Tensor:
    """The value at the peak of each map (the first of equals)."""
    return values.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True))[:, 0]


@dataclass(frozen=True)
class PartPointingGame(Checked):
    """1 where the peak is within `tolerance` px of any visible part; the pointing game of Zhang et al., IJCV 2018.

    value: "hit", or its "chance" level: the share of the image that counts as a hit.
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
            label=label("part pointing game", format_tolerance(self.tolerance), VALUES.get(self.value, "")),
            meaning=hit if self.value == "hit" else "share of the image that lies on a visible part",
            family="part_pointing_game",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        near = territories_of(explained).within(self.tolerance)
        values = near.to(explained.maps.dtype).mean(dim=(1, 2))
        if self.value == "hit":
            values = at_peak(explained.maps, near).to(values)
        return mask_values(values, {"no_parts": ~near.flatten(1).any(dim=1)})


@dataclass(frozen=True)
class SamePart(Checked):
    """1 where the peaks of query's and reference's maps are nearest to the same visible part; defined here.

    Left and right eyes, legs and wings are the same part on CUB, since birds face either way. Pairs without a map of
    the reference have no record.

    value: "same", or its "chance" level: for two random points.
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
            degenerate=("it is 1 where both images show the same single part",),
            group="Metrics that depend on the pair",
            label=label("same part", VALUES.get(self.value, "")),
            meaning=same if self.value == "same" else "how often two random points of a pair lie on the same part",
            family="same_part",
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        other = explained.other
        if other is None or other.raw is None:
            return no_records(explained)
        hidden = [~territories_of(side).within(inf).flatten(1).any(dim=1) for side in (explained, other)]
        flawed = torch.stack(find_flaws(other.raw)).any(dim=0)
        reasons = {"no_parts": torch.stack(hidden).any(dim=0), "reference_map": flawed}
        sides = [(side.maps, territories_of(side).kinds()) for side in (explained, other)]
        if self.value == "same":
            first, second = (at_peak(maps, kinds) for maps, kinds in sides)
            values = (first == second).to(explained.maps.dtype)
        else:
            count = 1 + max(int(kinds.max()) for _, kinds in sides)
            shares = [torch.stack([(kinds == k).double().mean(dim=(1, 2)) for k in range(count)]) for _, kinds in sides]
            values = (shares[0] * shares[1]).sum(dim=0).to(explained.maps.dtype)
        return mask_values(values, reasons)


@dataclass(frozen=True)
class PartEnergy(Checked):
    """Share of the positive map within `tolerance` px of visible parts; the energy of Wang et al., CVPRW 2020.

    A pixel belongs to the nearest visible part, so that the shares of all parts sum to the share of any part.

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
        super().__post_init__()
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
            meaning=meanings[self.value] + ("" if any_part else ": where the heat lies, not a score"),
            family="part_energy" if any_part else "part_heat" if self.value == "ratio" else f"part_{self.value}",
            role=role(self.value),
        )

    @property
    def _part_label(self) -> str:
        """The label of one part, in the table of parts."""
        return label(str(self.part).replace("_", " "), "" if self.value == "ratio" else self.value)

    def region(self, explained: Explained) -> Masks:
        """The pixels whose energy counts."""
        ground = territories_of(explained)
        near = ground.within(self.tolerance)
        return near if self.part is None else near & ground.of(self.part)

    def __call__(self, explained: Explained) -> Measured:
        region = self.region(explained)
        reasons = {"no_parts": ~region.flatten(1).any(dim=1), "no_positive_part": without_positive_part(explained)}
        return mask_values(energy_value(explained.maps, region, self.value), reasons)
