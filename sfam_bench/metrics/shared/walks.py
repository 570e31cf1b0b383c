"""Paths from an image to its baseline or back, shared by deletion, insertion and the values along them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.types import Embeddings, Flags, Scores
from sfam_bench.engine.series import Joined, Replaced, Series
from sfam_bench.metrics.shared.base import Explained, Metric, Probing, no_reason
from sfam_bench.metrics.shared.steps import Steps, sample_steps

Curves: TypeAlias = Float[Tensor, "batch points"]
Direction = Literal["deletion", "insertion"]
Order = Literal["most", "least"]
Degrade = Literal["query", "reference", "both"]
KEPT = 65  # points of a curve, at most, for drawing


@dataclass(frozen=True)
class Walk:
    """From the query to its baseline or back, most or least relevant pixels first; both ends are the same for all maps.

    `order=least` is the exact reverse of `most`, including ties: its deletion curve is the reversed insertion curve.
    """

    direction: Direction
    baseline: Baseline
    steps: Steps
    order: Order = "most"

    @property
    def name(self) -> str:
        """Key of its curve."""
        return f"{self.direction}_{self.baseline.name}" + ("" if self.order == "most" else "_least")

    def points(self, pixels: int) -> int:
        """The number of points between the ends."""
        return len(sample_steps(self.steps, pixels)[0]) - 2

    def count(self, pixels: int) -> int:
        return self.points(pixels)

    def series(self, explained: Explained, pair: int) -> Series:
        ends = explained.scene.encoded.query.images[pair], explained.scene.without(self.baseline)[pair]
        start, finish = ends if self.direction == "deletion" else ends[::-1]
        ranks = take_order(explained.ranks[pair], self.order)
        return Replaced(start, finish, ranks, ranks.new_tensor(sample_steps(self.steps, ranks.numel())[0][1:-1]))

    def base(self, explained: Explained) -> Scores:
        """The score of the baseline image."""
        return explained.scene.base(self.baseline)

    def scores(self, explained: Explained, needed: Flags) -> Curves:
        """The raw curve with both ends; NaN for pairs that are not `needed`."""
        between = explained.readings(self, needed)[:, : self.points(explained.maps[0].numel())]
        return self.between(explained.scene.full(), between, self.base(explained))

    def readings(self, explained: Explained, needed: Flags, name: str) -> Curves:
        """Another value along the walk, with both ends; NaN for pairs that are not `needed`."""
        scene = explained.scene
        full, base = (scene.reading(e, name) for e in (scene.encoded.query.embeddings, scene.bare(self.baseline)))
        return self.between(full, explained.readings(self, needed, name), base)

    def between(self, full: Scores, curve: Float[Tensor, "batch inner"], base: Scores) -> Curves:
        """A curve with both ends."""
        first, last = (full, base) if self.direction == "deletion" else (base, full)
        return torch.cat([first[:, None], curve, last[:, None]], dim=1)

    def area(self, explained: Explained, needed: Flags) -> Scores:
        """Area under (s - s_base) / (s_full - s_base)."""
        full, base = explained.scene.full(), self.base(explained)
        return self.integral(self.scores(explained, needed) - base[:, None], explained) / (full - base)

    def integral(self, curves: Curves, explained: Explained) -> Scores:
        """Area under curves with both ends."""
        return curves @ curves.new_tensor(sample_steps(self.steps, explained.maps[0].numel())[1])

    def without_range(self, explained: Explained, least: float | int) -> Flags:
        """Pairs whose score hardly differs from that of the baseline image."""
        return explained.scene.full() - self.base(explained) < least


@dataclass(frozen=True)
class OtherWalk(Walk):
    """A walk of the reference by its own map, or of both images at once; the score is that of the changed pair."""

    degrade: Degrade = "both"

    @property
    def name(self) -> str:
        return f"{super().name}_{self.degrade}"

    def count(self, pixels: int) -> int:
        return self.points(pixels) * (2 if self.degrade == "both" else 1)

    def series(self, explained: Explained, pair: int) -> Series:
        other = super().series(reference_of(explained), pair)
        return other if self.degrade == "reference" else Joined((super().series(explained, pair), other))

    def read(self, explained: Explained, embeddings: Embeddings, pair: int) -> Float[Tensor, "items 1"]:
        """The scores of queries with the reference of the same step."""
        if self.degrade == "reference":
            return reference_of(explained).scene.read(embeddings, pair)[:, None]
        query, reference = embeddings.chunk(2)
        return (explained.scene.encoded.terms[0].sign * explained.scene.model.similarity(query, reference))[:, None]

    def base(self, explained: Explained) -> Scores:
        scene, other = explained.scene, reference_of(explained).scene
        if self.degrade == "reference":
            return other.base(self.baseline)
        similarity = scene.model.similarity(scene.bare(self.baseline), other.bare(self.baseline))
        return scene.encoded.terms[0].sign * similarity


def reference_of(explained: Explained) -> Explained:
    """The reference with its own map."""
    if explained.other is None:
        raise ValueError("there is no map of the reference")
    return explained.other


def walk_of(direction: Direction, baseline: Baseline, steps: Steps, order: Order, degrade: Degrade) -> Walk:
    """The walk of the query, or of the images that `degrade` names."""
    given = (direction, baseline, steps, order)
    return Walk(*given) if degrade == "query" else OtherWalk(*given, degrade)


def take_order(ranks: Int[Tensor, "rows cols"], order: Order) -> Int[Tensor, "rows cols"]:
    """The ranks in an order, or in its reverse."""
    return ranks if order == "most" else ranks.numel() - 1 - ranks


def area(walks: Iterable[Walk], area_of: Callable[[Walk], Scores]) -> Scores:
    """The area of one walk, or that of the first walk minus that of the second."""
    first, *second = map(area_of, walks)
    return first - second[0] if second else first


def curves(explained: Explained, metrics: Iterable[Metric]) -> dict[str, tuple[list[float], Curves]]:
    """By name, fractions and raw scores of each walk that metrics need of all pairs; NaN for pairs that none needs.

    At most `KEPT` points of each, including both ends. Where two walks differ only in their steps, the name of the
    later ends with its number of steps.
    """
    needed: dict[Walk, Flags] = {}
    for metric in metrics:
        if isinstance(metric, Probing) and metric.share == 1:
            flags = no_reason(metric.reasons(explained))
            for probe in metric.probes:
                if isinstance(probe, Walk):
                    needed[probe] = flags | needed[probe] if probe in needed else flags
    found: dict[str, tuple[list[float], Curves]] = {}
    pixels = explained.maps[0].numel()
    for walk, flags in needed.items():
        counts, _ = sample_steps(walk.steps, pixels)
        if isinstance(walk, OtherWalk) and explained.other is None:
            continue
        name = f"{walk.name}_{len(counts) - 1}_steps" if walk.name in found else walk.name
        kept = torch.linspace(0, len(counts) - 1, min(len(counts), KEPT)).round().long()
        found[name] = [counts[place] / pixels for place in kept], walk.scores(explained, flags)[:, kept]
    return found
