"""A big evaluation, frozen in a file and cut into shards that any machine can compute."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from sfam_bench.errors import UserError
from sfam_bench.files import atomic
from sfam_bench.provenance import code_hash, config_hash, plain

FILE = "plan.json"
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
        """Raise UserError where the code is not what planned."""
        if (code := code_hash()) != self.code:
            raise UserError(f"the code ({code}) is not that of the plan {root} ({self.code}): use that, or plan again")

    def write(self, root: Path) -> None:
        """Freeze the plan in its run folder."""
        with atomic(root / FILE) as temporary:
            temporary.write_text(json.dumps(plain(asdict(self)), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, root: Path) -> "Plan":
        """Read the plan of a run folder."""
        if not (root / FILE).is_file():
            raise UserError(f"{root} holds no plan ({FILE}): make one with submit.py plan run_dir={root}")
        try:
            found = json.loads((root / FILE).read_text())
            return cls(**{**found, "shards": [Shard(**shard) for shard in found["shards"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"cannot read {root / FILE} ({error}): plan again into another run_dir") from error


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
    pairs = pairwise(borders)
    return [Shard(config_hash({"key": key, "first": first, "last": last}), first, last) for first, last in pairs]


def shards_for(pairs: int, rate: float, minutes: float | int, workers: int) -> int:
    """How many shards make tasks of about `minutes`: one a worker at least, as many as an array may hold at most."""
    return max(1, min(MOST, max(workers, round(pairs / rate / (60 * minutes)))))
