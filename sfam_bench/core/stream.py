"""Chunks, prefetching and progress bars for streams of work."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def progress(items: Iterable[Item] | None, what: str, total: int | None, unit: str) -> "tqdm[Any]":
    """A progress bar with rate and remaining time; in a log file it refreshes twice a minute, a line each time."""
    interactive = sys.stderr.isatty()
    return tqdm(items, what, total, unit=unit, leave=not interactive, mininterval=0.1 if interactive else 30)


def split_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last one may be shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def prefetch(function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2) -> Iterator[Result]:
    """Yield results in order, computed `ahead` items early by threads, as decoding images releases the GIL."""
    with ThreadPoolExecutor(ahead) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
