"""Imports of large libraries, without garbage collection in between."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import here what stays: a collection would walk through its million objects, now, later and at the end."""
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else what is frozen may be garbage of earlier jobs
            gc.freeze()
        if enabled:
            gc.enable()
