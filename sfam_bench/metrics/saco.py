"""SaCo: does the salience of groups of pixels order the falls of the score?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import Count
from sfam_bench.core.types import Flags
from sfam_bench.engine.series import Masked, Series, SoftMasks
from sfam_bench.metrics.causal import is_flat
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason


@dataclass(frozen=True)
class Groups:
    """The query without the pixels of each of `groups` equal groups, in descending order of relevance."""

    groups: int
    baseline: Baseline

    def count(self, pixels: int) -> int:
        return self.groups

    def series(self, explained: Explained, pair: int) -> Series:
        image, behind = explained.scene.encoded.query.images[pair], explained.scene.without(self.baseline)[pair]
        group = self.group(explained)[pair]

        def masks(first: int, last: int) -> SoftMasks:
            numbers = torch.arange(first, last, device=group.device)
            return (group != numbers[:, None, None]).to(image)

        return Masked(image, behind, masks, self.groups)

    def group(self, explained: Explained) -> Tensor:
        """The group of each pixel."""
        pixels = explained.maps[0].numel()
        return explained.ranks.long() * self.groups // pixels


@dataclass(frozen=True)
class SaCo(Checked):
    """How well differences in salience between groups of pixels order the falls of the score; Wu et al., CVPR 2024.

    sum over pairs of groups i < j of (S_i - S_j), negative where the fall of i is less than that of j, over the sum of
    their magnitudes; S_i is the map's sum over group i. 1: in every pair the group of greater salience matters more;
    about 0: chance.

    groups: of equal numbers of pixels, in descending order of relevance.
    baseline: replaces the pixels of a group; the mean colour is the paper's.
    """

    groups: Count = 10
    baseline: Baseline = MEAN
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = True
    share: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 2:
            raise UserError(f"SaCo.groups is {self.groups}: choose at least 2")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            degenerate=("two groups of equal salience count nothing: a sparse map has few pairs that count",),
            group="Faithfulness",
            label=label("SaCo", self.baseline.name),
            meaning="do groups of more salient pixels change the score more?",
            family="saco",
            baseline=self.baseline.name,
        )

    @property
    def probes(self) -> tuple[Groups, ...]:
        return (Groups(self.groups, self.baseline),)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"constant_map": find_flaws(explained.maps)[1]}

    def __call__(self, explained: Explained) -> Measured:
        (probe,), reasons = self.probes, self.reasons(explained)
        falls = explained.scene.full()[:, None] - explained.readings(probe, no_reason(reasons))
        maps, group = explained.maps.double().flatten(1), probe.group(explained).flatten(1)
        salience = maps.new_zeros(len(maps), self.groups).scatter_add_(1, group, maps)
        first, second = torch.triu_indices(self.groups, self.groups, offset=1)
        apart = salience[:, first] - salience[:, second]
        signed = torch.where(falls[:, first] >= falls[:, second], apart, -apart).sum(dim=1)
        reasons["no_fall"] = is_flat(falls, explained.scene.full())
        return mask_values((signed / apart.abs().sum(dim=1)).to(explained.maps.dtype), reasons)
