"""Planted: rendered birds whose class is the pair (crest, tail), so that the evidence of each pair is known."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import PIL.Image
import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.core.records import Sample
from sfam_bench.core.types import Image, Mask, Masks
from sfam_bench.datasets.planted.render import render
from sfam_bench.datasets.planted.scene import BACKGROUND, EVIDENCE, OTHER, PARTS, STATES, PlantedScene

TEST_SHARE = 3  # one in TEST_SHARE combinations is a test class


@dataclass(frozen=True)
class Planted(Checked):
    """Images (3, size, size) of 96 train and 48 test combinations of 12 crests and 12 tails, without overlap.

    Every crest and every tail occurs in 8 training classes; everything else is drawn independently of the class. An
    image depends only on `seed` and its id, not on the order or the number of images per class.

    Difficulty: evidence_size, the scale of crest and tail; leaves in front of the bird; rounds of clutter behind it.
    """

    size: Count = 96
    train_per_class: Natural = 16
    test_per_class: Natural = 10
    seed: Natural = 0
    evidence_size: Positive = 1.0
    leaves: Natural = 0
    clutter: Natural = 1
    name: str = "planted"
    split_name: str = "disjoint combinations"

    parts: ClassVar[tuple[str, ...]] = PARTS
    evidence: ClassVar[tuple[str, ...]] = EVIDENCE
    with_states: ClassVar[tuple[str, ...]] = EVIDENCE
    aspects: ClassVar[tuple[str, ...]] = ()  # what else can be repainted: changes without a region of their own
    defining: ClassVar[tuple[str, ...]] = EVIDENCE  # whose states are the class
    states: ClassVar[int] = STATES

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per image: image_id -> label, class_name, split and the states of `defining` and `with_states`."""
        classes = sorted(self._classes(np.random.default_rng(self.seed)), key=lambda entry: entry[1])
        rows = []
        for label, (states, test) in enumerate(classes):
            split, images = ("test", self.test_per_class) if test else ("train", self.train_per_class)
            name = ", ".join(f"{part} {state}" for part, state in zip(self.defining, states, strict=True))
            rows += [(f"{split}-{label:04d}-{k:02d}", label, name, split, *states) for k in range(images)]
        columns = ["image_id", "label", "class_name", "split", *self.defining]
        return self._add_states(pd.DataFrame(rows, columns=columns).set_index("image_id"))

    def _classes(self, draw: np.random.Generator) -> list[tuple[tuple[int, ...], bool]]:
        """The states of each class, and whether it is a test class."""
        crests, tails = draw.permutation(STATES), draw.permutation(STATES)
        # diagonals of the shuffled square, so that each state is in the same number of test classes
        return [((c, t), bool((crests[c] + tails[t]) % TEST_SHARE == 0)) for c in range(STATES) for t in range(STATES)]

    def count_states(self, part: str) -> int:
        """The number of states of one of `with_states`."""
        return self.states

    @property
    def causes(self) -> tuple[str, ...]:
        """The parts that a network must use to count in tables."""
        return self.evidence

    def _add_states(self, index: pd.DataFrame) -> pd.DataFrame:
        """The index with the columns that a world adds."""
        return index

    def image(self, image_id: str) -> PIL.Image.Image:
        """Render one image as 8-bit RGB."""
        return PIL.Image.fromarray(render(self._scene(image_id), self.size)[0])

    def sample(self, image_id: str) -> Sample:
        """Render one image with masks of the visible bird ("foreground") and its parts ("part/crest", ...)."""
        return self._sample(self._scene(image_id))

    def repaint(self, image_id: str, part: str, change: int) -> Sample:
        """Render the image with one part repainted: one with states in state `change`, another in look `change`.

        Pixels change only where the part was or is, and in the anti-aliased rim around it (two pixels at sharp tips).
        """
        if part not in (known := (*self.parts, *self.aspects)):
            raise UserError(f"{self.name} has no part '{part}'; its parts: {', '.join(known)}")
        if part in self.with_states and not 0 <= change < self.count_states(part):
            raise UserError(f"{part} has no state {change}; its states: 0 to {self.count_states(part) - 1}")
        return self._sample(self._scene(image_id).repaint(part, change))

    def part_masks(self, image_id: str) -> Masks:
        """The visible pixels of each of `parts`, (parts, rows, cols)."""
        masks = self.sample(image_id).masks
        return torch.stack([masks[f"part/{part}"] for part in self.parts])

    def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> Image:
        """Render the image with these parts repainted: each part with states in one of its other states.

        The states come in a random order of the image, each once before any again; other parts get look `number` + 1.
        """
        scene, states = self._scene(image_id), self._states(image_id)
        for part in parts:
            change = number + 1
            if part in self.with_states:
                count = self.count_states(part)
                others = scene.stream(f"states of {part}").permutation(count - 1)
                change = (states[part] + 1 + int(others[number % len(others)])) % count
            scene = scene.repaint(part, change)
        return self._sample(scene).image

    def regions(self, query_id: str, reference_id: str, sample: Sample) -> dict[str, Mask]:
        """Regions of the query: "foreground", "shared" parts if any, and then "unshared" parts if any."""
        query, reference = self._states(query_id), self._states(reference_id)
        alike = {part: self._is_shared(part, query, reference) for part in self.evidence}
        shared = [f"part/{part}" for part, same in alike.items() if same]
        unshared = [f"part/{part}" for part, same in alike.items() if not same]
        regions = {"foreground": sample.masks["foreground"]}
        if shared:
            regions["shared"] = _union(sample, shared)
            if unshared:
                regions["unshared"] = _union(sample, unshared)
        return regions

    def _is_shared(self, part: str, query: dict[str, int], reference: dict[str, int]) -> bool:
        return query[part] == reference[part]

    @cached_property
    def _all_states(self) -> dict[str, dict[str, int]]:
        names = self.with_states
        columns = [self.index[part].tolist() for part in names]
        return {i: dict(zip(names, row, strict=True)) for i, *row in zip(self.index.index, *columns, strict=True)}

    def _states(self, image_id: str) -> dict[str, int]:
        if image_id not in self._all_states:
            raise UserError(f"{self.name} has no image '{image_id}'; ids look like '{self.index.index[0]}'")
        return self._all_states[image_id]

    def _scene(self, image_id: str) -> PlantedScene:
        states, key = self._states(image_id), (self.seed, hash_id(image_id))
        scene = PlantedScene(key, states["crest"], states.get("tail"))
        return replace(scene, evidence_size=self.evidence_size, leaves=self.leaves, clutter=self.clutter)

    def _sample(self, scene: PlantedScene) -> Sample:
        image, parts = render(scene, self.size)
        masks = {"foreground": torch.from_numpy((parts > 0) & (parts <= len(PARTS)))}
        masks |= {f"part/{part}": torch.from_numpy(parts == k) for k, part in enumerate(PARTS, start=1)}
        masks |= {f"part/{OTHER}": torch.from_numpy(parts > len(PARTS))} if OTHER in self.parts else {}
        masks |= {f"part/{BACKGROUND}": ~masks["foreground"]} if BACKGROUND in self.parts else {}
        return Sample(torch.from_numpy(image).permute(2, 0, 1).float() / 255, masks)


def hash_id(image_id: str) -> int:
    """A number of 64 bits for an image id."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")


def _union(sample: Sample, names: list[str]) -> Mask:
    return torch.stack([sample.masks[name] for name in names]).any(dim=0)
