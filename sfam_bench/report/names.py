"""Names in prose and in file names, the order of explainers, and number formats."""

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

LONGEST = 150  # characters of a file name
Named = Callable[..., str]  # `slug`, or the `Slugs` of a report
SPELLING = {"map@r": "MAP@R", "r": "R", "roc": "ROC", "auc": "AUC"}


def sort_explainers(explainers: Sequence[str], blind: Container[str]) -> list[str]:
    """Methods in their order of evaluation, then those that are blind to the pair."""
    return sorted(explainers, key=blind.__contains__)


def direction_arrow(higher_is_better: Any) -> str:
    """↑ higher is better, ↓ lower is better, nothing without a direction."""
    return "" if pd.isna(higher_is_better) else " ↑" if higher_is_better else " ↓"


def count_decimals(values: Sequence[float]) -> int:
    """Three significant digits for the largest of the values, and at most four decimals."""
    sizes = np.abs([value for value in values if np.isfinite(value)])
    largest = sizes.max() if sizes.size else 0
    if all(float(size).is_integer() for size in sizes):
        return 0
    return int(np.clip(3 - np.ceil(np.log10(largest)), 0, 4)) if largest > 0 else 3


def to_prose(name: str) -> str:
    """A name as prose: recall_at_1 is recall@1."""
    return " ".join(SPELLING.get(part, part) for part in name.replace("_at_", "@").split("_"))


def join_names(names: Sequence[str]) -> str:
    """Names as an enumeration: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def slug(*names: str) -> str:
    """A file name made of these names."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed" for name in names)[:LONGEST]


@dataclass(frozen=True)
class Slugs:
    """File names within one report: like `slug`, but other names never share one.

    Of names that slug alike the second gets "--2" at its end, and so on: no slug has two dashes in a row.
    """

    known: dict[tuple[str, ...], str] = field(default_factory=dict)

    def __call__(self, *names: str) -> str:
        if names not in self.known:
            alike = sum(
                found == slug(*names) or found.rpartition("--")[0] == slug(*names) for found in self.known.values()
            )
            self.known[names] = slug(*names) + (f"--{alike + 1}" if alike else "")
        return self.known[names]
