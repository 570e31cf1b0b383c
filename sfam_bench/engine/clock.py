"""The clock of computations on a device."""

from collections.abc import Callable
from time import perf_counter, process_time

import torch


def choose_clock(device: torch.device) -> Callable[[], float]:
    """The time of all processor cores in seconds, for which other jobs do not count; on a GPU the wall clock."""
    return process_time if device.type == "cpu" else perf_counter
