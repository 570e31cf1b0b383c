"""Shards on this machine: one process each, pinned to cores of its own."""

import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sfam_bench.core.signals import listening

Process: TypeAlias = subprocess.Popen[bytes]

ATTEMPTS = 3  # of a shard whose process was killed; what it had done is kept
WAIT = ("sh", "-c", 'read -r line && exec "$@"', "sh")  # becomes the command, with the same number and start time
GRACE = 60.0  # seconds that a process which was asked to stop has for its batch


@dataclass(frozen=True)
class Claims:
    """Which shards other processes compute: `taken` says whether one does, `ended` whether a shard was completed.

    `claim` notes that a new process, which waits until that is written, computes a shard.
    """

    taken: Callable[[str], bool] = lambda shard: False
    ended: Callable[[str], bool] = lambda shard: False
    claim: Callable[[str, int], None] = lambda shard, pid: None


def cores(workers: int) -> list[list[int]]:
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
) -> int | None:
    """Run one command a shard, `workers` at a time; the number of the signal that stopped it, or nothing.

    A process that is killed is begun again; one that fails has left its reason. A shard that another process computes
    takes a place until that ends, and is then computed unless it was completed. `tick` is called while it waits.
    """
    waiting, tries = deque(commands), Counter[str]()
    free, active = deque(enumerate(cores(workers))), dict[str, tuple[Process | None, tuple[int, list[int]]]]()
    logs.mkdir(exist_ok=True)
    with listening() as asked:
        try:
            while (waiting and asked.number is None) or active:
                while waiting and free and asked.number is None:
                    shard, slot = waiting.popleft(), free.popleft()
                    if claims.taken(shard):
                        active[shard] = None, slot
                        continue
                    process = started(commands[shard], logs / f"{shard}.log", slot, gpus)
                    active[shard] = process, slot
                    claims.claim(shard, process.pid)
                    release(process)
                    tries[shard] += 1
                if asked.number is not None:
                    break
                for shard, (own, slot) in list(active.items()):
                    if own.poll() is None if own else claims.taken(shard):
                        continue
                    del active[shard]
                    free.append(slot)
                    if own.returncode < 0 and tries[shard] < ATTEMPTS if own else not claims.ended(shard):
                        waiting.append(shard)
                tick()
                time.sleep(0.05)
        finally:
            stop([process for process, _ in active.values() if process])
    return asked.number


def started(command: Sequence[str], log: Path, slot: tuple[int, Sequence[int]], gpus: int = 0) -> Process:
    """A process on the cores of its slot, and on one of the GPUs, which waits for `release` and ends without it."""
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


def release(process: Process) -> None:
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
