"""Perturbed versions of one image, each composed when its row of a batch is free."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.types import Image, Images

Ranks: TypeAlias = Int[Tensor, "rows cols"]  # rank of each pixel, 0 first
Counts: TypeAlias = Int[Tensor, " items"]
SoftMasks: TypeAlias = Float[Tensor, "items rows cols"]  # 1 keeps a pixel, 0 replaces it


@runtime_checkable
class Series(Protocol):
    """Inputs made from one; they are never all in memory at once."""

    @property
    def like(self) -> Tensor:
        """One input, for its shape, type and device."""
        ...

    def __len__(self) -> int: ...

    def write(self, first: int, out: Tensor) -> None:
        """Compose the inputs from number `first` into the rows of `out`."""
        ...


@runtime_checkable
class Comparable(Series, Protocol):
    """A series that tells whether it is that of another map: of the same ends, pixels change at the same steps."""

    def digest(self) -> bytes:
        """Equal for equal inputs."""
        ...


@dataclass(frozen=True)
class Replaced:
    """`start` with its first-ranked pixels replaced by those of `finish`: as many as each of `counts`."""

    start: Image
    finish: Image
    ranks: Ranks
    counts: Counts

    @property
    def like(self) -> Tensor:
        return self.start

    def __len__(self) -> int:
        return len(self.counts)

    def digest(self) -> bytes:
        return digest_steps(self.ranks, self.counts)

    def write(self, first: int, out: Images) -> None:
        changed = self.ranks < self.counts[first : first + len(out), None, None]
        # exact at weights 0 and 1, and several times as fast as torch.where on CPUs
        torch.lerp(self.start, self.finish, changed[:, None].to(out.dtype), out=out)


@dataclass(frozen=True)
class Masked:
    """`image` behind `count` soft masks, replaced by `baseline`; `masks(first, last)` computes a few at a time."""

    image: Image
    baseline: Image
    masks: Callable[[int, int], SoftMasks]
    count: int

    @property
    def like(self) -> Tensor:
        return self.image

    def __len__(self) -> int:
        return self.count

    def write(self, first: int, out: Images) -> None:
        torch.lerp(self.baseline, self.image, self.masks(first, first + len(out))[:, None], out=out)


@dataclass(frozen=True)
class Joined:
    """Series of inputs of one shape, one after another."""

    parts: tuple[Series, ...]

    @property
    def like(self) -> Tensor:
        return self.parts[0].like

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def write(self, first: int, out: Tensor) -> None:
        done = 0
        for part in self.parts:
            rows = min(len(part) - first, len(out) - done)
            if rows > 0:
                part.write(first, out[done : done + rows])
                first, done = first + rows, done + rows
            first -= len(part)


def digest_steps(ranks: Ranks, counts: Counts) -> bytes:
    """A digest of the step at which each pixel changes, whatever the order of those that change at one step."""
    steps = torch.bucketize(ranks, counts, out_int32=True, right=True)
    return blake2b(steps.cpu().numpy().tobytes(), digest_size=16).digest()
