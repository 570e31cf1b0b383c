"""Does the map follow the effect of each part of a photo, measured by blurring a disc at the part?"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfam_bench.core.baselines import Baseline, Blur
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import SHARE, MetricCard, label
from sfam_bench.core.ranges import Count
from sfam_bench.metrics.causal import MEASURES, compare_parts, read_relevance
from sfam_bench.metrics.removal import measure_drops
from sfam_bench.metrics.shared.base import Explained, Measured
from sfam_bench.metrics.shared.effects import Effects
from sfam_bench.metrics.shared.scene import Scene


@dataclass(frozen=True)
class Discs:
    """A disc at each visible part, hidden alone."""

    diameter: int
    baseline: Baseline

    def regions(self, scene: Scene) -> Bool[Tensor, "batch parts rows cols"]:
        """The pixels of each disc; none for parts that are not visible."""
        if scene.pairs.keypoints is None:
            raise ValueError("these images have no keypoints")
        x, y, visible = scene.pairs.keypoints.to(scene.encoded.query.images.device).unbind(dim=2)
        rows, cols = (torch.arange(side, device=x.device) for side in scene.encoded.query.images.shape[-2:])
        across, down = cols - x.floor()[..., None], rows - y.floor()[..., None]
        squares = down.square()[..., :, None] + across.square()[..., None, :]
        return (squares < (self.diameter / 2) ** 2) & (visible > 0)[..., None, None]

    def hidden(self, scene: Scene) -> Float[Tensor, "batch parts rows cols"]:
        """1 where a disc hides a pixel."""
        return self.regions(scene).to(scene.encoded.query.images)


@dataclass(frozen=True)
class PartDeletion(Checked):
    """Agreement over visible parts of the map's mean on a disc and the fall of the score without it; defined here.

    A weaker measure than causal_agreement, for photos, where parts cannot be redrawn: the model has not seen images
    with blurred discs. Each pair takes one pass for each part, which serves all methods.

    measure: Pearson's or Spearman's correlation; or 1 where the part of greatest relevance has the greatest effect.
    diameter: px of a disc, with the part in its middle.
    baseline: replaces the pixels of a disc.
    """

    measure: Literal["pearson", "spearman", "top"] = "pearson"
    diameter: Count = 24
    baseline: Baseline = field(default=Blur())
    needs: ClassVar[tuple[str, ...]] = ("keypoints",)
    higher_is_better: ClassVar[bool] = True

    @property
    def card(self) -> MetricCard:
        note, meaning = MEASURES[self.measure]
        return MetricCard(
            range=SHARE if self.measure == "top" else (-1, 1),
            degenerate=(
                "a model that has not seen blurred discs may react to their edges",
                "discs of neighbouring parts overlap, so that their effects cannot be separated",
            ),
            group="Metrics that depend on the pair",
            label=label("part deletion", note, self.baseline.name),
            meaning=meaning.replace("relevance", "mean relevance", 1),
            family="_".join(["part_deletion", *note.split()]),
            baseline=self.baseline.name,
        )

    def __call__(self, explained: Explained) -> Measured:
        discs, scene = Discs(self.diameter, self.baseline), explained.scene
        full = scene.full().double()
        without = (full[:, None] - measure_drops(scene, discs))[..., None]
        effects = Effects(discs.regions(scene), full, without, joint=full[:, None], single=())
        return compare_parts(read_relevance(explained, effects, "density"), effects.means, effects, self.measure)
