"""Shards on this machine: one process each, pinned to cores of its own."""

import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sfam_bench.signals import listening

ATTEMPTS = 3  # of a shard whose process was killed; what it had done is kept
GRACE = 60.0  # seconds that a process which was asked to stop has for its batch


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
) -> int | None:
    """Run one command a shard, `workers` at a time; the number of the signal that stopped it, or nothing.

    A process that is killed is begun again; one that fails has left its reason. `tick` is called while it waits.
    """
    waiting, tries = deque(commands), Counter[str]()
    free, active = deque(enumerate(cores(workers))), dict[str, tuple[subprocess.Popen[bytes], tuple[int, list[int]]]]()
    logs.mkdir(exist_ok=True)
    with listening() as asked:
        try:
            while (waiting and asked.number is None) or active:
                while waiting and free and asked.number is None:
                    shard, slot = waiting.popleft(), free.popleft()
                    active[shard] = started(commands[shard], logs / f"{shard}.log", slot, gpus), slot
                    tries[shard] += 1
                if asked.number is not None:
                    break
                for shard, (process, slot) in list(active.items()):
                    if (code := process.poll()) is None:
                        continue
                    del active[shard]
                    free.append(slot)
                    if code < 0 and tries[shard] < ATTEMPTS:
                        waiting.append(shard)
                tick()
                time.sleep(0.05)
        finally:
            stop([process for process, _ in active.values()])
    return asked.number


def started(
    command: Sequence[str], log: Path, slot: tuple[int, Sequence[int]], gpus: int = 0
) -> "subprocess.Popen[bytes]":
    """A process on the cores of its slot, and on one of the GPUs."""
    number, mine = slot
    count = str(len(mine))
    settings = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    if gpus:
        settings["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **settings})
    os.sched_setaffinity(process.pid, mine)  # long before it counts its cores
    return process


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
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
