"""One comparison, and how far apart its two sides are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from os import environ
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

PEERS = Path(environ["PEERS"]) if environ.get("PEERS") else None  # a folder of checkouts of authors' repositories
Sides: TypeAlias = tuple[str, Tensor, Tensor]  # a setting, our map and theirs, before anybody normalises


@dataclass(frozen=True)
class Comparison:
    """One method against one independent implementation, in several settings.

    method: key of conf/explainer.
    peer: whose code, and which of its names; "by definition" is a loop of our own that shares nothing with the method.
    run: yields (setting, ours, theirs).
    tolerance: of the largest magnitude of theirs.
    cause: why the two differ, where they are known to; then they must.
    package: what must be importable.
    checkout: a file of the authors' repository that is run, below the folder of checkouts PEERS (`make differential
        PEERS=...`), such as pairx/core.py.
    """

    method: str
    peer: str
    run: Callable[[], Iterable[Sides]]
    tolerance: float = 1e-5
    cause: str = ""
    package: str = ""
    checkout: str = ""

    @property
    def installed(self) -> bool:
        """Whether the peer can be run here."""
        there = not self.checkout or (PEERS is not None and (PEERS / self.checkout).is_file())
        return there and (not self.package or find_spec(self.package) is not None)

    @property
    def missing(self) -> str:
        """What has to be installed for the peer."""
        return f"a checkout with {self.checkout} below $PEERS" if self.checkout else "pip install '.[crosscheck]'"

    def differences(self) -> dict[str, float]:
        """By setting, the largest difference as a share of their largest magnitude."""
        return {name: difference(ours, theirs) for name, ours, theirs in self.run()}


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the largest magnitude of `theirs`."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
