"""Times that can be believed on a shared machine: CPU time of one thread, interleaved, as ratios within a round."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Seconds = dict[str, list[float]]


def interleaved(
    tasks: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> Seconds:
    """Seconds of each task in each round; one round goes through all of them, so that drift meets all alike."""
    seconds: Seconds = {name: [] for name in tasks}
    for number in range(rounds):
        for name in list(tasks)[:: 1 if number % 2 == 0 else -1]:
            started = clock()
            tasks[name]()
            seconds[name].append(clock() - started)
    return seconds


def ratio(of: list[float], to: list[float], scale: float = 1.0) -> dict[str, float]:
    """`of` over `to` times `scale`, round by round: median and range."""
    return spread([scale * a / b for a, b in zip(of, to, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    figures = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def shown(figure: Mapping[str, Any]) -> str:
    """A spread as text."""
    return f"{figure['median']:g} [{figure['low']:g}, {figure['high']:g}]"
