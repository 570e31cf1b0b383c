"""The kinds of pairs: how the reference and the negative of a query are selected."""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError

log = logging.getLogger(__name__)

NO_PLACES = "pairs.kinds=exchanged needs parts that can exchange their places: only dataset=planted/relation has them"
NO_EVIDENCE = "pairs.kinds=partial_match needs known evidence parts: only dataset=planted has them"


def check_pair_kinds(name: str, kinds: Collection[str], known: Collection[str]) -> None:
    """Raise UserError, beginning with the setting `name`, unless kinds are one or more of the known ones, each once."""
    if {*kinds} - {*known} or not kinds or len({*kinds}) < len(kinds):
        raise UserError(f"{name}={[*kinds]}: kinds are {', '.join(known)}; give one or more, each once")


def warn_of_few_pairs(dataset: str, kind: str, found: int, wanted: int) -> None:
    """Log a warning if a kind has fewer pairs than wanted."""
    if found < wanted:
        message = "%s: %d pairs of kind %s instead of %d: no other query has such a reference"
        log.warning(message, dataset, found, kind, wanted)


@dataclass(frozen=True)
class Candidates:
    """One query, its scores against all items, their index, and the columns of it that are states of parts."""

    query: int
    scores: Tensor
    index: pd.DataFrame
    states: tuple[str, ...]
    random: np.random.Generator
    searched: np.ndarray  # items that may be references

    def same(self) -> np.ndarray:
        """Other items of the query's class."""
        return ~self.different() & (np.arange(len(self.index)) != self.query)

    def different(self) -> np.ndarray:
        """Items of other classes."""
        return np.asarray(self.index["label"] != self.index["label"].iloc[self.query])

    def nearest(self, among: np.ndarray) -> int | None:
        """The searched item with the highest score among some items, the first of equals; None if there is none."""
        among = among & self.searched
        return int(self.scores.masked_fill(~torch.tensor(among), -torch.inf).argmax()) if among.any() else None

    def any(self, among: np.ndarray) -> int | None:
        """A random searched item among some items; None if there is none."""
        among = among & self.searched
        return int(self.random.choice(np.flatnonzero(among))) if among.any() else None


Choice = tuple[int | None, int | None]  # reference, negative


def nearest_positive(candidates: Candidates) -> Choice:
    """The nearest neighbour, if it is of the query's class."""
    nearest = candidates.nearest(np.arange(len(candidates.index)) != candidates.query)
    return (nearest if nearest is not None and candidates.same()[nearest] else None), None


def nearest(candidates: Candidates) -> Choice:
    """The nearest neighbour, of whatever class; for unlabelled images."""
    return candidates.nearest(np.arange(len(candidates.index)) != candidates.query), None


def hard_negative(candidates: Candidates) -> Choice:
    """The nearest item of another class."""
    return candidates.nearest(candidates.different()), None


def random_positive(candidates: Candidates) -> Choice:
    """A random other item of the query's class."""
    return candidates.any(candidates.same()), None


def triplet(candidates: Candidates) -> Choice:
    """The nearest item of the query's class, and as the negative the nearest of another class."""
    return candidates.nearest(candidates.same()), candidates.nearest(candidates.different())


def partial_match(candidates: Candidates) -> Choice:
    """A random item that shares the states of some parts with the query and differs in others."""
    if not candidates.states:
        raise UserError(NO_EVIDENCE)
    states = candidates.index[list(candidates.states)].to_numpy()
    shared = (states == states[candidates.query]).sum(axis=1)
    return candidates.any((shared > 0) & (shared < states.shape[1])), None


def exchanged(candidates: Candidates) -> Choice:
    """A random item with the states of the query's two parts in each other's places."""
    states = candidates.index[list(candidates.states)].to_numpy()
    return candidates.any((states == states[candidates.query, ::-1]).all(axis=1) & candidates.different()), None


KINDS: dict[str, Callable[[Candidates], Choice]] = {
    kind.__name__: kind
    for kind in (nearest_positive, nearest, hard_negative, random_positive, triplet, partial_match, exchanged)
}
# What queries of some kinds need: a searched image of their class (positive), or of another class (negative)
ROLES_OF = {
    **dict.fromkeys(("nearest_positive", "random_positive"), ("positive",)),
    **{"hard_negative": ("negative",), "triplet": ("positive", "negative")},
}
