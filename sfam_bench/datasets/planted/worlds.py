"""Worlds with known answers beyond the default set, each of which asks a question of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import ClassVar

import numpy as np
import pandas as pd

from sfam_bench.core.ranges import Positive, Share
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Mask
from sfam_bench.datasets.planted.dataset import TEST_SHARE, Planted, hash_id
from sfam_bench.datasets.planted.scene import (
    BACKGROUND,
    CHANNELS,
    EVIDENCE,
    OTHER,
    PARTS,
    PLACES,
    STATES,
    PlantedScene,
    join_channels,
)


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

    Crest and tail of the other bird have the forms of a class in earthy colours: with its colours too, nothing in the
    image would say which bird has the class, and no network could leave the other one out. The foreground is the bird
    of the class, and the other bird is one part. A map that shows birds, and not what makes the pair alike, lies on
    both.
    """

    name: str = "planted-crowd"

    parts: ClassVar[tuple[str, ...]] = (*PARTS, OTHER)

    def _scene(self, image_id: str) -> PlantedScene:
        return replace(super()._scene(image_id), crowd=True)


@dataclass(frozen=True)
class Channel(Planted):
    """Birds whose class is form, colour and texture of the crest; the tail is drawn anew for each image.

    Two images may share the colour of the crest and not its form. The effect of each channel is measured beside that of
    the whole crest; all have the same region. Half of the 48 combinations of 3 forms, 4 colours and 4 textures are test
    classes, in which no colour has a texture that it has in training.
    """

    name: str = "planted-channel"

    evidence: ClassVar[tuple[str, ...]] = ("crest",)
    with_states: ClassVar[tuple[str, ...]] = ("crest", *CHANNELS)
    aspects: ClassVar[tuple[str, ...]] = tuple(CHANNELS)
    defining: ClassVar[tuple[str, ...]] = tuple(CHANNELS)

    def _classes(self, draw: np.random.Generator) -> list[tuple[tuple[int, ...], bool]]:
        colours, textures = draw.permutation(CHANNELS["colour"]), draw.permutation(CHANNELS["texture"])
        # in each half every state of two channels occurs with at least two states of the third
        return [
            ((form, colour, texture), bool((colours[colour] + textures[texture]) % 2 == 0))
            for form, colour, texture in product(*map(range, CHANNELS.values()))
        ]

    def count_states(self, part: str) -> int:
        return CHANNELS.get(part, prod(CHANNELS.values()))

    def _add_states(self, index: pd.DataFrame) -> pd.DataFrame:
        rows = index[list(CHANNELS)].to_numpy().tolist()
        return index.assign(crest=[join_channels(dict(zip(CHANNELS, row, strict=True))) for row in rows])

    def _scene(self, image_id: str) -> PlantedScene:
        return replace(super()._scene(image_id), channels=True)

    def _is_shared(self, part: str, query: dict[str, int], reference: dict[str, int]) -> bool:
        return any(query[channel] == reference[channel] for channel in CHANNELS)


@dataclass(frozen=True)
class Relation(Planted):
    """Birds whose crest and tail are drawn alike, so that both in exchanged places are another class.

    A network that counts parts, wherever they are, cannot tell a bird from its exchanged twin. The classes are the 132
    ordered pairs of two different states, 88 train and 44 test classes; twins are in the same half.
    """

    name: str = "planted-relation"

    aspects: ClassVar[tuple[str, ...]] = (PLACES,)

    @property
    def causes(self) -> tuple[str, ...]:
        return (*self.evidence, PLACES)

    def _classes(self, draw: np.random.Generator) -> list[tuple[tuple[int, ...], bool]]:
        order = draw.permutation(STATES)
        return [
            ((c, t), bool((order[c] + order[t]) % TEST_SHARE == 0))
            for c in range(STATES)
            for t in range(STATES)
            if c != t
        ]

    def _scene(self, image_id: str) -> PlantedScene:
        return replace(super()._scene(image_id), alike=True)
