"""Memory: settings of the C library, and the peak of tensors."""

import ctypes
import platform
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_memory() -> bool:
    """Let glibc keep freed memory in this process; returns False without glibc.

    Otherwise it returns activations to the system after every pass and page-faults at the next. The process keeps at
    most the activations of the largest pass, and 256 MiB of padding.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)


@dataclass
class Held:
    """Bytes of live storages, and their maximum."""

    now: int = 0
    most: int = 0
    alive: set[int] = field(default_factory=set, repr=False)

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        """Subtract a freed storage."""
        self.alive.discard(key)
        self.now -= size


class _Watch(TorchDispatchMode):
    """Counts every tensor that an operation creates."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self.held = held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.held.add(tensor)
        return result


@contextmanager
def peak(device: torch.device) -> Iterator[Held]:
    """Measure the peak of bytes of tensors created in the block; by CUDA's counter on CUDA."""
    held = Held()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield held
        held.most = torch.cuda.max_memory_allocated(device) - before
    else:
        with _Watch(held):
            yield held
