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

ATTEMPTS = 3  # of a job whose process was killed; what it had done is kept
WAIT = ("sh", "-c", 'read -r line && exec "$@"', "sh")  # becomes the command, with the same number and start time
GRACE = 60.0  # seconds that a process which was asked to stop has for its batch


@dataclass(frozen=True)
class Claims:
    """What is known of jobs, whoever does them, and what notes who does.

    taken: whether another process does a job. done, failed: how a job ended.
    claim: note that a new process, which starts once that is written, does a job.
    """

    taken: Callable[[str], bool] = lambda job: False
    done: Callable[[str], bool] = lambda job: False
    failed: Callable[[str], bool] = lambda job: False
    claim: Callable[[str, int], None] = lambda job, pid: None


def assign_cores(workers: int) -> list[list[int]]:
    """The cores that this process may use, dealt out to so many workers; shared where there are not enough."""
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
    """Run one command a job, `workers` at a time; the number of the signal that stopped it, or nothing.

    A process that is killed is started again; one that fails has left its reason. A job that another process does
    takes a place until that ends, and is then done here unless it has ended. A job starts once those of `after` have
    ended, and not at all where one of them is not done. `tick` is called while it waits.
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
    """Whether a job has not ended yet, and what it needs is done."""
    return not (claims.done(job) or claims.failed(job)) and all(map(claims.done, after))


def start(command: Sequence[str], log: Path, slot: tuple[int, Sequence[int]], gpus: int = 0) -> Process:
    """A process on the cores of its slot, and on one of the GPUs, which waits for `let_begin` and ends without it."""
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
    """Let a process begin, once it is noted: a driver that is killed between the two leaves none that is not."""
    assert process.stdin
    with suppress(BrokenPipeError):  # it was killed already
        process.stdin.write(b"\n")
        process.stdin.close()


def stop(processes: Sequence[Process]) -> None:
    """Ask processes to end their batch, and end those that take too long."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
