"""Signals to stop: the current step is finished and written before the process ends."""

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # SLURM's at its time limit; one chosen with sbatch --signal


class Interrupted(Exception):
    """Raised after a stop signal, once the progress is written."""

    def __init__(self, number: int, after: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after {after}")
        self.number = number


class StopRequest:
    """The signal that was received, None so far."""

    number: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; the handler."""
        self.number = number


@contextmanager
def catch_signals(signals: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[StopRequest]:
    """Record signals instead of ending at them while the block runs; has no effect outside the main thread."""
    request = StopRequest()
    try:
        before = {number: signal.signal(number, request.note) for number in signals}
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignore_closed_pipe() -> Iterator[None]:
    """Exit silently, with the code of SIGPIPE, if the reader of the output has closed it (`... | head`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        output, state = sys.stdout.fileno(), select.poll()
        state.register(output, select.POLLERR)
        if not state.poll(0):
            raise  # another pipe was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes stdout again at exit
        sys.exit(128 + signal.SIGPIPE)
