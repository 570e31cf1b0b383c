"""A big evaluation, frozen in a file and cut into shards that any machine can compute."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate, pairwise
from math import inf
from pathlib import Path
from typing import Any, get_type_hints

from beartype.door import is_bearable

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest, read_json, write_json
from sfam_bench.core.provenance import config_hash, plain, running_code

FILE, PAIRS = "plan.json", "pairs.parquet"
MOST = 1000  # tasks of an array: SLURM's MaxArraySize is 1001 where nobody raised it


@dataclass(frozen=True)
class Shard:
    """Batches `first` to `last` - 1, computed by one task; the id is a hash of all that decides its numbers."""

    id: str
    first: int
    last: int

    @property
    def batches(self) -> range:
        """The numbers of its batches."""
        return range(self.first, self.last)


@dataclass(frozen=True)
class Plan:
    """What every task of one evaluation is given.

    key: hash of config, weights, split, pairs, passes and code, which every piece on disk carries.
    folder: where relative paths of the config begin.
    batches: pairs in each batch, the unit that is written at once.
    frozen: the digest of each file beside the plan that decides numbers.
    rate: pairs a second and worker, and `size` bytes a pair, where the plan measured them.
    """

    key: str
    code: str
    folder: str
    config: dict[str, Any]
    passes: dict[str, Any]
    left_out: dict[str, str]
    batches: list[int]
    rate: float
    size: float
    shards: list[Shard]
    frozen: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """All pairs."""
        return sum(self.batches)

    @cached_property
    def by_id(self) -> dict[str, Shard]:
        """Shards by id."""
        return {shard.id: shard for shard in self.shards}

    def pairs_of(self, shard: Shard) -> int:
        """Pairs of one shard."""
        return sum(self.batches[shard.first : shard.last])

    def check(self, root: Path) -> None:
        """Raise UserError where the code is not what planned, or a frozen file is not what was planned with."""
        if (code := running_code()) != self.code:
            raise UserError(f"the code ({code}) is not that of the plan {root} ({self.code}): use that, or plan again")
        self.prove(root)

    def prove(self, root: Path) -> None:
        """Raise UserError where a frozen file is damaged, absent or another one than was planned with."""
        for name, expected in self.frozen.items():
            remedy = f"restore it, or plan again into another run_dir than {root}"
            try:
                found = digest(root / name)
            except OSError as error:
                raise UserError(
                    f"cannot read {root / name}, which the plan needs ({error.strerror}): {remedy}"
                ) from error
            if found != expected:
                raise UserError(f"{root / name} is not the file of the plan (its digest differs): {remedy}")

    def write(self, root: Path) -> None:
        """Freeze the plan in its run folder."""
        write_json(root / FILE, plain(asdict(self)))

    @classmethod
    def read(cls, root: Path) -> "Plan":
        """Read the plan of a run folder; UserError unless it is exactly what was written."""
        if not (root / FILE).is_file():
            raise UserError(f"{root} holds no plan ({FILE}): make one with submit.py plan run_dir={root}")
        remedy = "plan again into another run_dir"
        found = read_json(root / FILE, remedy)
        try:
            plan = cls(**{**found, "shards": [Shard(**shard) for shard in found["shards"]]})
            plan._verify()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{root / FILE} is no plan of this version ({why}): {remedy}") from error
        return plan

    def _verify(self) -> None:
        """ValueError where fields are of other types than declared, or the shards are not those of the batches."""
        for known in fields(self):
            if not is_bearable(getattr(self, known.name), HINTS[known.name]):
                raise ValueError(f"{known.name} is of another type")
        if not self.batches or min(self.batches) < 1 or not 0 < self.rate < inf:
            raise ValueError("batches and rate must be positive")
        if any(Path(name).name != name for name in self.frozen) or not self.frozen.keys() >= {PAIRS}:
            raise ValueError(f"frozen must name {PAIRS} and other files beside it")
        borders = [0, *(shard.last for shard in self.shards)]
        if borders[-1] != len(self.batches) or any(
            shard != named(self.key, first, last)
            for shard, (first, last) in zip(self.shards, pairwise(borders), strict=True)
        ):
            raise ValueError("its shards are not those of its batches")


HINTS = get_type_hints(Plan)


def named(key: str, first: int, last: int) -> Shard:
    """The shard of these batches."""
    return Shard(config_hash({"key": key, "first": first, "last": last}), first, last)


def cut(batches: Sequence[int], shards: int, key: str) -> list[Shard]:
    """Cut batches into consecutive ranges of about as many pairs each."""
    count = max(1, min(shards, len(batches)))
    ends = list(accumulate(batches))
    # the batch at whose end a shard's share is reached; each shard has one batch at least
    borders = [0]
    for number in range(1, count):
        share = ends[-1] * number / count
        at = bisect_left(ends, share)
        nearest = at + 1 if at == 0 or ends[at] - share <= share - ends[at - 1] else at
        borders.append(min(max(nearest, borders[-1] + 1), len(batches) - (count - number)))
    borders.append(len(batches))
    return [named(key, first, last) for first, last in pairwise(borders)]


def shards_for(pairs: int, rate: float, minutes: float | int, workers: int) -> int:
    """How many shards make tasks of about `minutes`: one a worker at least, as many as an array may hold at most."""
    return max(1, min(MOST, max(workers, round(pairs / rate / (60 * minutes)))))
