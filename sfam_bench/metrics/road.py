"""ROAD: removed pixels are imputed from their neighbours."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Count, Finite, Natural, NotNegative
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Image, Images
from sfam_bench.engine.series import Ranks, Series, digest_steps
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason
from sfam_bench.metrics.shared.imputation import impute
from sfam_bench.metrics.shared.walks import Order, take_order


@dataclass(frozen=True)
class Imputed:
    """`image`, its first-ranked pixels imputed: as many as each of `counts`, with noise by `seed`."""

    image: Image
    ranks: Ranks
    counts: tuple[int, ...]
    noise: float | int
    seed: int

    @property
    def like(self) -> Tensor:
        return self.image

    def __len__(self) -> int:
        return len(self.counts)

    def digest(self) -> bytes:
        return digest_steps(self.ranks, self.ranks.new_tensor(self.counts))

    def write(self, first: int, out: Images) -> None:
        out.copy_(self.images[first : first + len(out)])

    @cached_property
    def images(self) -> Images:
        """All images, since they are solved together."""
        removed = torch.stack([self.ranks < count for count in self.counts])
        images = impute(self.image, removed)
        noise = torch.zeros_like(images)
        for where, out, count in zip(removed, noise, self.counts, strict=True):
            drawn = np.random.default_rng((self.seed, count)).standard_normal((len(out), count))
            out.masked_scatter_(where, torch.from_numpy(drawn).to(out))
        return images.add_(noise, alpha=self.noise)


@dataclass(frozen=True)
class Imputing:
    """The query with growing shares of its most or least relevant pixels imputed."""

    order: Order
    levels: int
    noise: float | int
    seed: int

    def count(self, pixels: int) -> int:
        return self.levels

    def series(self, explained: Explained, pair: int) -> Series:
        pairs, ranks = explained.scene.pairs, explained.ranks[pair]
        seed = pair_seed(self.seed, pairs.query_ids[pair], pairs.reference_ids[pair], "road", self.order)
        counts = tuple(self.removed_counts(ranks.numel()))
        image = explained.scene.encoded.query.images[pair]
        return Imputed(image, take_order(ranks, self.order), counts, self.noise, seed)

    def removed_counts(self, pixels: int) -> list[int]:
        """The number of pixels at or above each percentile, as np.percentile interpolates, in ascending order."""
        shares = (np.arange(self.levels, 0, -1)) / (self.levels + 1)
        return (pixels - np.ceil((shares * (pixels - 1)).round(6)).astype(int)).tolist()


@dataclass(frozen=True)
class Road(Checked):
    """Half the gap in score when the least and when the most relevant pixels are imputed; Rong et al., ICML 2022.

    The mean over equal steps of the share of pixels, over s_full - s_base; NaN where that is < `min_range`, in units of
    the score. Removed pixels become the weighted mean of their neighbours, solved jointly, plus noise seeded by
    the pair.

    levels: number of shares of pixels; 9 are 10 to 90 percent.
    noise: standard deviation, of images in [0, 1].
    baseline: of the image with score s_base.
    scale: divide by s_full - s_base (range), or not (raw), as grad-cam's ROADCombined.
    """

    levels: Count = 9
    noise: NotNegative = 0.01
    baseline: Baseline = MEAN
    min_range: Finite = 0.05
    scale: Literal["range", "raw"] = "range"
    seed: Natural = 0
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = True
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            group="Faithfulness",
            label=label("ROAD", "" if self.scale == "range" else "raw scores"),
            meaning="half the gap in score, least minus most relevant pixels imputed",
            family=f"road_{self.scale}",
            baseline=self.baseline.name if self.scale == "range" else None,
        )

    @property
    def probes(self) -> tuple[Imputing, ...]:
        orders: tuple[Order, ...] = ("most", "least")
        return tuple(Imputing(order, self.levels, self.noise, self.seed) for order in orders)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"zero_range": (explained.scene.range(self.baseline) < self.min_range) & (self.scale == "range")}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        most, least = (explained.readings(probe, no_reason(reasons)).mean(dim=1) for probe in self.probes)
        unit = explained.scene.range(self.baseline) if self.scale == "range" else 1.0
        return mask_values((least - most) / 2 / unit, reasons)
