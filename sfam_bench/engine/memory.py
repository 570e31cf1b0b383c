"""What the machine can do for nothing."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_memory() -> bool:
    """Tell glibc to keep freed memory, for this process; False where there is no glibc.

    It otherwise returns a network's activations to the system at every pass and faults them in again at the next.
    Costs at most the largest pass's activations, held until the process ends, and 256 MiB of padding.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)
