"""Model selection on held-out training classes, without the test classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfam_bench.core.errors import UserError


@dataclass(frozen=True)
class Validation:
    """Hold out one of `folds` blocks of the sorted training classes (Musgrave et al., ECCV 2020).

    Without `folds` the validation classes of the data set's split are held out (dataset.split=few_shot). They are
    evaluated every `every` epochs, and the weights with the best `measure` are kept.
    """

    folds: int | None = 4
    fold: int = 0
    every: int = 1
    measure: Literal["map_at_r", "recall_at_1", "r_precision"] = "map_at_r"

    def __post_init__(self) -> None:
        folds = 2 if self.folds is None else self.folds
        if not (folds >= 2 and 0 <= self.fold < folds and self.every >= 1):
            raise UserError(
                f"validation.folds={self.folds}, validation.fold={self.fold}, validation.every={self.every}: expected "
                "at least 2 folds, a fold counted from 0, and every of at least 1"
            )

    def held_out(self, labels: Sequence[int]) -> list[bool]:
        """Return for each label of the training split whether its class is held out."""
        if self.folds is None:
            return [False] * len(labels)
        classes = sorted(set(labels))
        if len(classes) < 2 * self.folds:
            raise UserError(
                f"validation.folds={self.folds} of {len(classes)} training classes leave fewer than two to a fold: "
                "lower validation.folds, or validation=none"
            )
        block = set(np.array_split(np.array(classes), self.folds)[self.fold].tolist())
        return [label in block for label in labels]


@dataclass(frozen=True, eq=False)
class Choice:
    """Select the epoch with the best measure `by` of `measures()` on held-out classes, called every `every` epochs."""

    measures: Callable[[], Mapping[str, float | int]]
    by: str
    every: int = 1
