"""Worlds with known answers beyond the default: a background that goes with the class, many sizes, two birds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd

from sfam_bench.core.ranges import Positive, Share
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Mask
from sfam_bench.datasets.planted.dataset import Planted, hash_id
from sfam_bench.datasets.planted.scene import BACKGROUND, EVIDENCE, OTHER, PARTS, PlantedScene


@dataclass(frozen=True)
class Shortcut(Planted):
    """Birds in twelve habitats; in training the habitat goes with the tail, at test it is drawn independently.

    A network may therefore read the background in place of the tail. A faithful map of such a network leaves the bird,
    and metrics of localisation then punish it. Test images do not depend on `share`.

    share: of the training images whose habitat is that of their tail; 0 is a clean set.
    """

    share: Share = 1.0
    name: str = "planted-shortcut"

    parts: ClassVar[tuple[str, ...]] = (*PARTS, BACKGROUND)
    with_states: ClassVar[tuple[str, ...]] = (*EVIDENCE, BACKGROUND)

    @property
    def causes(self) -> tuple[str, ...]:
        return (BACKGROUND,) if self.share else self.evidence

    def _add_states(self, index: pd.DataFrame) -> pd.DataFrame:
        draws = [np.random.default_rng([self.seed, hash_id(image_id)]) for image_id in index.index]
        random = np.array([draw.integers(self.states) for draw in draws])
        follows = np.array([draw.random() < self.share for draw in draws]) & (index["split"] == "train").to_numpy()
        return index.assign(**{BACKGROUND: np.where(follows, index["tail"], random)})

    def _scene(self, image_id: str) -> PlantedScene:
        return replace(super()._scene(image_id), habitat=self._states(image_id)[BACKGROUND])

    def regions(self, query_id: str, reference_id: str, sample: Sample) -> dict[str, Mask]:
        return super().regions(query_id, reference_id, sample) | {BACKGROUND: sample.masks[f"part/{BACKGROUND}"]}


@dataclass(frozen=True)
class Scale(Planted):
    """Birds whose crest and tail together cover from 1 % to 30 % of the image; the scale is independent of the class.

    scales: of crest and tail, drawn for each image, in units of `evidence_size`.
    """

    scales: Sequence[Positive] = (0.35, 0.55, 0.85, 1.3, 2.0)
    name: str = "planted-scale"

    def _add_states(self, index: pd.DataFrame) -> pd.DataFrame:
        draws = [np.random.default_rng([self.seed, hash_id(image_id)]) for image_id in index.index]
        return index.assign(scale=[self.scales[int(draw.integers(len(self.scales)))] for draw in draws])

    def _scene(self, image_id: str) -> PlantedScene:
        scene = super()._scene(image_id)
        return replace(scene, evidence_size=scene.evidence_size * self._scale_of[image_id])

    @cached_property
    def _scale_of(self) -> dict[str, float]:
        return {str(image_id): float(scale) for image_id, scale in self.index["scale"].items()}


@dataclass(frozen=True)
class Crowd(Planted):
    """Two birds an image, of which one has the class; the other is drawn anew for each image.

    The foreground is the bird of the class, and the other bird is one part. A map that shows birds, and not what makes
    the pair alike, lies on both.
    """

    name: str = "planted-crowd"

    parts: ClassVar[tuple[str, ...]] = (*PARTS, OTHER)

    def _scene(self, image_id: str) -> PlantedScene:
        return replace(super()._scene(image_id), crowd=True)
