"""Jobs on this machine: one process each, pinned to cores of its own."""

import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from sfam_bench.core.signals import catch_signals

Process: TypeAlias = subprocess.Popen[bytes]

ATTEMPTS = 3  # starts of a job whose process is killed; finished batches are kept
WAIT = ("sh", "-c", 'read -r line && exec "$@"', "sh")  # becomes the command, with the same number and start time
GRACE = 60.0  # seconds for a stopped process to finish its batch


@dataclass(frozen=True)
class Claims:
    """How to look up the state of jobs, and to note that a process does one.

    taken: whether another process does a job. done, failed: whether a job has ended so.
    claim: note that a new process, which starts once that is written, does a job.
    """

    taken: Callable[[str], bool] = lambda job: False
    done: Callable[[str], bool] = lambda job: False
    failed: Callable[[str], bool] = lambda job: False
    claim: Callable[[str, int], None] = lambda job, pid: None


def assign_cores(workers: int) -> list[list[int]]:
    """The cores of this process, divided among the workers; shared if there are too few."""
    mine = sorted(os.sched_getaffinity(0))
    each = max(1, len(mine) // workers)
    return [[mine[(slot * each + i) % len(mine)] for i in range(each)] for slot in range(workers)]


def compute(
    commands: Mapping[str, Sequence[str]],
    workers: int,
    logs: Path,
    gpus: int = 0,
    tick: Callable[[], None] = lambda: None,
    claims: Claims = Claims(),
    after: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> int | None:
    """Run one command per job, `workers` at a time; the number of the signal that stopped it, or None.

    A killed process is started again; a failed one has noted its error. A job that another process does
    occupies a slot until that ends, and is then done here unless finished. A job starts once those of `after` have
    ended, and not at all if one of them is not done. `tick` is called while waiting.
    """
    waiting, tries = list(commands), Counter[str]()
    free, active = deque(enumerate(assign_cores(workers))), dict[str, tuple[Process | None, tuple[int, list[int]]]]()
    logs.mkdir(exist_ok=True)
    with catch_signals() as request:
        try:
            while (waiting and request.number is None) or active:
                while free and request.number is None:
                    unfinished = {*waiting, *active}
                    ready = (name for name in waiting if not unfinished & {*after.get(name, ())})
                    if (job := next(ready, None)) is None:
                        break
                    waiting.remove(job)
                    if claims.taken(job):
                        active[job] = None, free.popleft()
                        continue
                    if not _is_due(job, claims, after.get(job, ())):
                        continue
                    slot = free.popleft()
                    process = start(commands[job], logs / f"{job}.log", slot, gpus)
                    active[job] = process, slot
                    claims.claim(job, process.pid)
                    let_begin(process)
                    tries[job] += 1
                if request.number is not None:
                    break
                for job, (own, slot) in list(active.items()):
                    if own.poll() is None if own else claims.taken(job):
                        continue
                    del active[job]
                    free.append(slot)
                    if own is None or (own.returncode < 0 and tries[job] < ATTEMPTS):
                        waiting.append(job)
                tick()
                time.sleep(0.05)
        finally:
            stop([process for process, _ in active.values() if process])
    return request.number


def _is_due(job: str, claims: Claims, after: Collection[str]) -> bool:
    """Whether a job has not ended, and the jobs that it needs are done."""
    return not (claims.done(job) or claims.failed(job)) and all(map(claims.done, after))


def start(command: Sequence[str], log: Path, slot: tuple[int, Sequence[int]], gpus: int = 0) -> Process:
    """Start a process on the cores of its slot and on one GPU; it waits for `let_begin`, and exits without it."""
    number, mine = slot
    count = str(len(mine))
    settings = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    if gpus:
        settings["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*WAIT, *command], stdin=subprocess.PIPE, stdout=out, stderr=out, env={**os.environ, **settings}
        )
    os.sched_setaffinity(process.pid, mine)
    return process


def let_begin(process: Process) -> None:
    """Let a process begin once its note is written, so that a killed driver leaves no process without a note."""
    assert process.stdin
    with suppress(BrokenPipeError):  # it was killed already
        process.stdin.write(b"\n")
        process.stdin.close()


def stop(processes: Sequence[Process]) -> None:
    """Send SIGTERM to processes, which finish their batch; kill those that take too long."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
