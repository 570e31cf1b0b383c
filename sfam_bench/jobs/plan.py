"""Plans: all jobs below a root, sealed in plan.json; shards of an evaluation, cells of a sweep or trials of a study."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate, pairwise
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_type_hints

from beartype.door import is_bearable

from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.files import digest, read_json, write_json
from sfam_bench.core.provenance import config_hash, running_code, to_plain
from sfam_bench.jobs.job import Job
from sfam_bench.runs.chunks import chunk_path
from sfam_bench.runs.continued import PLAN

FILE, PAIRS = PLAN, "pairs.parquet"
ID = re.compile(r"\w[\w.-]*")
MOST = 1000  # tasks of an array: SLURM's MaxArraySize is 1001 where nobody raised it


@dataclass(frozen=True)
class Shard:
    """Batches `first` to `last` - 1, computed by one job; the id is a hash of all that determines the results."""

    id: str
    first: int
    last: int

    @property
    def batches(self) -> range:
        """The numbers of its batches."""
        return range(self.first, self.last)


@dataclass(frozen=True)
class Plan:
    """The plan of one evaluation, common to all its shards.

    key: hash of config, weights, split, pairs, passes and code, which every chunk on disk carries.
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
    kind: Literal["evaluation"] = "evaluation"
    word: ClassVar[str] = "shards"

    @cached_property
    def jobs(self) -> list[Job]:
        """A job for each shard."""
        return [Job(shard.id, results=_records(shard), size=self.pairs_of(shard)) for shard in self.shards]

    def chain(self, name: str) -> list[Job]:
        """The job of this id; UserError if unknown."""
        return [find_job(self.jobs, name)]

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
        """Raise UserError if the code or a frozen file has changed since the plan was made."""
        if (code := running_code()) != self.code:
            raise UserError(f"the code ({code}) is not that of the plan {root} ({self.code}): use that, or plan again")
        self.prove(root)

    def prove(self, root: Path) -> None:
        """Raise UserError if a frozen file is missing or has changed since the plan was made."""
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
        """Write the plan into its run folder."""
        write_json(root / FILE, to_plain(asdict(self)))

    @classmethod
    def read(cls, root: Path) -> "Plan":
        """Read the plan of a run folder; UserError if it was changed."""
        plan = read_plan(root)
        if not isinstance(plan, cls):
            raise UserError(f"{root} is the folder of a {plan.kind}, not of a sharded evaluation")
        return plan

    def _verify(self) -> None:
        """Raise ValueError if a field has the wrong type, or the shards do not match the batches."""
        _check_types(self)
        if not self.batches or min(self.batches) < 1 or not 0 < self.rate < inf:
            raise ValueError("batches and rate must be positive")
        if any(Path(name).name != name for name in self.frozen) or not self.frozen.keys() >= {PAIRS}:
            raise ValueError(f"frozen must name {PAIRS} and other files beside it")
        borders = [0, *(shard.last for shard in self.shards)]
        if borders[-1] != len(self.batches) or any(
            shard != identify_shard(self.key, first, last)
            for shard, (first, last) in zip(self.shards, pairwise(borders), strict=True)
        ):
            raise ValueError("its shards are not those of its batches")


@dataclass(frozen=True)
class JobList:
    """An explicit list of jobs: the cells of a sweep, or the trials of a study.

    folder: where relative paths of commands and config begin.
    chained: whether one process does all jobs, one after another.
    config: what all jobs share, resolved.
    """

    kind: Literal["sweep", "study"]
    folder: str
    jobs: list[Job]
    chained: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    word: ClassVar[str] = "jobs"

    def write(self, root: Path) -> None:
        """Write the plan below its root, replacing an earlier one."""
        write_json(root / FILE, to_plain(asdict(self)))

    def chain(self, name: str) -> list[Job]:
        """The job of this id and, if one process does all jobs, the following ones."""
        job = find_job(self.jobs, name)
        return self.jobs[self.jobs.index(job) :] if self.chained else [job]

    def _verify(self) -> None:
        """Raise ValueError if a field has the wrong type, or a job needs an unknown job."""
        _check_types(self)
        for job in self.jobs:
            _check_types(job)
        ids = [job.id for job in self.jobs]
        if not ids or len({*ids}) < len(ids) or not all(map(ID.fullmatch, ids)):
            raise ValueError("its jobs need ids of their own, of letters, digits, dots and dashes")
        for number, job in enumerate(self.jobs):
            if strange := {*job.after} - {*ids[:number]}:
                raise ValueError(f"{job.id} needs {min(strange)}, which does not come before it")


AnyPlan: TypeAlias = Plan | JobList
Made = TypeVar("Made", Plan, JobList)


def read_plan(root: Path) -> AnyPlan:
    """Read the plan in a folder, of any kind; UserError if it was changed."""
    if not (root / FILE).is_file():
        raise UserError(
            f"{root} has no plan ({FILE}): make one with sfam-bench submit plan run_dir={root}, sweep or tune"
        )
    remedy = "plan again into another run_dir"
    found = read_json(root / FILE, remedy)
    try:
        if found.get("kind") == Plan.kind:
            return _parse_verified(Plan(**{**found, "shards": [Shard(**shard) for shard in found["shards"]]}))
        return _parse_verified(JobList(**{**found, "jobs": [Job(**job) for job in found["jobs"]]}))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{root / FILE} is no plan of this version ({why}): {remedy}") from error


def find_job(jobs: Sequence[Job], name: str) -> Job:
    """The job of this id; UserError if unknown."""
    for job in jobs:
        if job.id == name:
            return job
    raise UserError(f"no job {name} in the plan: see sfam-bench submit status")


def _parse_verified(plan: Made) -> Made:
    plan._verify()
    return plan


def _check_types(instance: Any) -> None:
    """Raise ValueError if a field of a dataclass has the wrong type."""
    hints = get_type_hints(type(instance))
    for known in fields(instance):
        if not is_bearable(getattr(instance, known.name), hints[known.name]):
            raise ValueError(f"{known.name} is of another type")


def _records(shard: Shard) -> list[str]:
    """The files of records of a shard, below the root."""
    return [str(chunk_path(Path(), "records", number)) for number in shard.batches]


def identify_shard(key: str, first: int, last: int) -> Shard:
    """A shard of these batches, with its id."""
    return Shard(config_hash({"key": key, "first": first, "last": last}), first, last)


def cut_shards(batches: Sequence[int], shards: int, key: str) -> list[Shard]:
    """Cut batches into consecutive ranges with about equal numbers of pairs."""
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
    return [identify_shard(key, first, last) for first, last in pairwise(borders)]


def count_shards(pairs: int, rate: float, minutes: float | int, workers: int) -> int:
    """The number of shards for tasks of about `minutes`: at least one per worker, at most the size of an array."""
    return max(1, min(MOST, max(workers, round(pairs / rate / (60 * minutes)))))
