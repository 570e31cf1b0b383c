"""Stability: does the map change with small noise, and does it move with the query?"""

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from sfam_bench.core.cache import Cache
from sfam_bench.core.maps import find_flaws, upsample
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Images, Maps, RawMaps
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values
from sfam_bench.metrics.shared.likeness import Changed, Comparing, Remaking, apply_change, remake_maps, resize_maps
from sfam_bench.metrics.shared.scene import Scene

Move: TypeAlias = Literal["flip", "crop"]


def replace_queries(scene: Scene, query: Images) -> Changed:
    """The same pairs with other images as queries."""
    encoded = replace(scene.encoded, query=scene.model.encode(query), kept=Cache())
    return Changed(scene.model, encoded, replace(scene.pairs, query=query))


@dataclass(frozen=True)
class Noisy:
    """The queries with noise, within [0, 1]: uniform of at most `radius`, or Gaussian of that deviation."""

    sample: int
    radius: float | int
    seed: int
    kind: Literal["uniform", "gaussian"] = "uniform"

    def __call__(self, scene: Scene) -> Changed:
        images, pairs = scene.encoded.query.images, scene.pairs
        draw = torch.rand if self.kind == "uniform" else torch.randn
        noise = torch.stack(
            [
                draw(images.shape[1:], generator=torch.Generator().manual_seed(self._seed(*pair)))
                for pair in zip(pairs.query_ids, pairs.reference_ids, strict=True)
            ]
        ).to(images)
        noise = 2 * noise - 1 if self.kind == "uniform" else noise
        return replace_queries(scene, (images + self.radius * noise).clamp(0, 1))

    def _seed(self, query_id: str, reference_id: str) -> int:
        return pair_seed(self.seed, query_id, reference_id, "noise", str(self.sample))


@dataclass(frozen=True)
class Moved:
    """The queries mirrored left to right, or their middle 7/8 enlarged to the whole image."""

    by: Move

    def __call__(self, scene: Scene) -> Changed:
        images = scene.encoded.query.images
        rows, cols = images.shape[-2:]
        moved = self.maps(images.flatten(0, 1)) if self.by == "crop" else images.flip(-1)
        return replace_queries(scene, moved.view(-1, 3, rows, cols))

    def maps(self, maps: Maps) -> Maps:
        """Maps, or channels of images, moved in the same way."""
        if self.by == "flip":
            return maps.flip(-1)
        size = maps.shape[-2], maps.shape[-1]
        (top, down), (left, across) = ((side // 16, side - 2 * (side // 16)) for side in size)
        return upsample(maps[:, top : top + down, left : left + across], size)


@dataclass(frozen=True)
class MaxSensitivity(Remaking):
    """Greatest relative change of the map in L2 under small noise on the query's pixels; Yeh et al., NeurIPS 2019.

    max over samples of |map(x + noise) - map(x)| / |map(x)|, the noise uniform within the radius, as in Captum, which
    does not clip images to [0, 1]. 0 is a map that does not change; an orthogonal map of the same length scores 1.4.

    samples: number of noisy queries and of further maps.
    radius: of the noise, for pixels in [0, 1].
    scale: maps divided by their greatest magnitude (peak), or as the method returns them (raw, as in the paper).
    seed: of the noise, with the ids of the pair.
    """

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    samples: Count = 10
    radius: Positive = 0.02
    scale: Literal["peak", "raw"] = "peak"
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(0, inf),
            remakes=self.samples,
            degenerate=("maps that ignore the query are the most stable: the control centre scores 0",),
            group="Sanity and robustness",
            label=label("max sensitivity", "" if self.scale == "peak" else "raw maps"),
            meaning="greatest change of the map under small noise",
            family="max_sensitivity",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        own, remake = explained.maps, explained.remake
        if remake is None:
            raise ValueError("these maps cannot be computed again")
        if self.scale == "raw" and explained.raw is not None:
            own = self._scale(explained.raw, own)
        changes, flawed = [], torch.zeros(len(own), dtype=torch.bool, device=own.device)
        for sample in range(self.samples):  # not by `remake_maps`, since no other metric uses these
            raw = remake(*apply_change(explained.scene, Noisy(sample, self.radius, self.seed)))
            changes.append(length(self._scale(raw, own) - own) / length(own))
            flawed |= find_flaws(raw)[0]
        reasons = {"constant_map": find_flaws(own)[1], "nonfinite_further_map": flawed}
        return mask_values(torch.stack(changes).amax(dim=0), reasons)

    def _scale(self, raw: RawMaps, like: Maps) -> Maps:
        return resize_maps(raw, like) if self.scale == "peak" else upsample(raw, (like.shape[-2], like.shape[-1]))


def length(maps: Maps) -> Tensor:
    """L2 norm of each map."""
    return maps.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class AugmentationAgreement(Comparing):
    """Similarity of the map, moved with the query, to the map of the moved query; defined here.

    The query is mirrored left to right, or its middle 7/8 fills the image; the reference does not change. The embedding
    changes too, so that only methods on the same model can be compared.

    by: flip or crop.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    by: Move = "flip"

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            remakes=1,
            degenerate=("maps that ignore the query agree: the control centre scores 1 when mirrored",),
            group="Sanity and robustness",
            label=label("augmentation agreement", self.by, *self.likeness),
            meaning="similarity to the map of the flipped or cropped query",
            family="augmentation_agreement",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        change = Moved(self.by)
        return self.compare(change.maps(explained.maps), resize_maps(remake_maps(explained, change), explained.maps))
