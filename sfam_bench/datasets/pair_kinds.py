"""The kinds of pairs: which reference, and which negative, a query is paired with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError

NO_EVIDENCE = "pairs.kinds=partial_match needs known evidence parts: only dataset=planted has them"


@dataclass(frozen=True)
class Candidates:
    """One query and everything it can be paired with: its scores against all items, and who they are."""

    query: int
    scores: Tensor
    index: pd.DataFrame
    evidence: tuple[str, ...]
    random: np.random.Generator
    searched: np.ndarray  # items that may be referred to

    def same(self) -> np.ndarray:
        """Other items of the query's class."""
        return ~self.different() & (np.arange(len(self.index)) != self.query)

    def different(self) -> np.ndarray:
        """Items of other classes."""
        different: np.ndarray = (self.index["label"] != self.index["label"].iloc[self.query]).to_numpy()
        return different

    def nearest(self, among: np.ndarray) -> int | None:
        """The highest score among some items of the gallery; the first of equals."""
        among = among & self.searched
        return int(self.scores.masked_fill(~torch.tensor(among), -torch.inf).argmax()) if among.any() else None

    def any(self, among: np.ndarray) -> int | None:
        """One of some items of the gallery at random."""
        among = among & self.searched
        return int(self.random.choice(np.flatnonzero(among))) if among.any() else None


Choice = tuple[int | None, int | None]  # reference, negative


def nearest_positive(candidates: Candidates) -> Choice:
    """The nearest neighbour, where it is of the query's class."""
    others = np.arange(len(candidates.index)) != candidates.query
    nearest = candidates.nearest(others)
    return (nearest if nearest is not None and candidates.same()[nearest] else None), None


def hard_negative(candidates: Candidates) -> Choice:
    """The nearest item of another class."""
    return candidates.nearest(candidates.different()), None


def random_positive(candidates: Candidates) -> Choice:
    """Any other item of the query's class."""
    return candidates.any(candidates.same()), None


def triplet(candidates: Candidates) -> Choice:
    """The nearest item of the query's class, and the nearest of another as the negative."""
    return candidates.nearest(candidates.same()), candidates.nearest(candidates.different())


def partial_match(candidates: Candidates) -> Choice:
    """Any item that shares some evidence part with the query and differs in another."""
    if not candidates.evidence:
        raise UserError(NO_EVIDENCE)
    states = candidates.index[list(candidates.evidence)].to_numpy()
    shared = (states == states[candidates.query]).sum(axis=1)
    return candidates.any((shared > 0) & (shared < states.shape[1])), None


KINDS: dict[str, Callable[[Candidates], Choice]] = {
    kind.__name__: kind for kind in (nearest_positive, hard_negative, random_positive, triplet, partial_match)
}
# What a query of some kinds must have: an image of its own class, one of another class
ROLES_OF = {
    **dict.fromkeys(("nearest_positive", "random_positive"), ("positive",)),
    **{"hard_negative": ("negative",), "triplet": ("positive", "negative")},
}
