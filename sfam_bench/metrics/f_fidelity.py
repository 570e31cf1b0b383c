"""F-Fidelity: the score without a random part of the most or least relevant pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Count, Finite, Natural, Share
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Scores
from sfam_bench.engine.series import Masked, Series, SoftMasks
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason
from sfam_bench.metrics.shared.walks import Order, take_order


@dataclass(frozen=True)
class Thinned:
    """The query without a random part of its most or least relevant pixels, for growing shares of them."""

    order: Order
    levels: int
    samples: int
    remove: float | int
    most: float | int
    seed: int
    baseline: Baseline

    def count(self, pixels: int) -> int:
        return self.levels * self.samples

    def series(self, explained: Explained, pair: int) -> Series:
        scene = explained.scene
        image, behind = scene.encoded.query.images[pair], scene.without(self.baseline)[pair]
        ranks = take_order(explained.ranks[pair], self.order)
        ids = scene.pairs.query_ids[pair], scene.pairs.reference_ids[pair]

        def mask(number: int) -> Tensor:
            size = (1 + number // self.samples) / self.levels  # of the explanation, as a share of the image
            draw = torch.Generator().manual_seed(pair_seed(self.seed, *ids, "thinned", self.order, str(number)))
            drawn = torch.rand(ranks.shape, generator=draw).to(ranks.device) < min(self.remove, self.most / size)
            return ~(drawn & (ranks < size * ranks.numel()))

        def masks(first: int, last: int) -> SoftMasks:
            return torch.stack([mask(number) for number in range(first, last)]).to(image)

        return Masked(image, behind, masks, self.levels * self.samples)


@dataclass(frozen=True)
class FFidelity(Checked):
    """Score without a random part of the least, minus of the most relevant pixels; Zheng et al., ICLR 2025.

    FFid+ is the fall of the score when the part is drawn among the most relevant pixels, FFid- when among the least
    relevant; both are means over sizes of the explanation and over draws, over s_full - s_base. The removed pixels
    never exceed the share `most` of the image, so that the images stay close to those of training. The paper measures
    with a model that was fine-tuned on randomly masked images; give such a model to evaluate. With the model as it is,
    this is R-Fidelity with a bound.

    value: "gap" is FFid+ minus FFid-.
    levels: number of sizes of the explanation: shares 1 / levels to 1 of the image.
    samples: draws for each size.
    remove: probability that a pixel of the explanation is removed.
    most: bound on the removed share of the image; the paper's beta.
    seed: of the draws, with the ids of the pair.
    """

    value: Literal["gap", "plus", "minus"] = "gap"
    levels: Count = 5
    samples: Count = 8
    remove: Share = 0.5
    most: Share = 0.1
    baseline: Baseline = MEAN
    min_range: Finite = 0.05
    seed: Natural = 0
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.remove or not self.most:
            raise UserError("FFidelity.remove and most are shares above 0: nothing would be removed")

    @property
    def higher_is_better(self) -> bool:
        return self.value != "minus"

    @property
    def card(self) -> MetricCard:
        parts = {"gap": "least minus most relevant", "plus": "most relevant", "minus": "least relevant"}
        return MetricCard(
            range=ANY,
            degenerate=("at the greatest size both draws are of the whole image: maps differ at smaller sizes alone",),
            group="Faithfulness",
            label=label("F-Fidelity", parts[self.value], self.baseline.name),
            meaning=f"score after a random part is removed, {parts[self.value]} pixels"
            if self.value == "gap"
            else f"fall of the score when a random part of the {parts[self.value]} pixels is removed",
            family=f"f_fidelity_{self.value}",
            baseline=self.baseline.name,
        )

    @property
    def probes(self) -> tuple[Thinned, ...]:
        orders: dict[str, tuple[Order, ...]] = {"gap": ("most", "least"), "plus": ("most",), "minus": ("least",)}
        settings = (self.levels, self.samples, self.remove, self.most, self.seed, self.baseline)
        return tuple(Thinned(order, *settings) for order in orders[self.value])

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"zero_range": explained.scene.range(self.baseline) < self.min_range}

    def __call__(self, explained: Explained) -> Measured:
        reasons, scene = self.reasons(explained), explained.scene
        falls: list[Scores] = [
            scene.full() - explained.readings(probe, no_reason(reasons)).mean(dim=1) for probe in self.probes
        ]
        value = falls[0] - falls[1] if self.value == "gap" else falls[0]
        return mask_values(value / scene.range(self.baseline), reasons)
