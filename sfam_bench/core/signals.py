"""The system asks to stop: the work at hand is finished and written first."""

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGTERM, signal.SIGUSR2)  # SLURM's end of time, or one chosen with sbatch --signal


class Interrupted(Exception):
    """A work that was asked to stop, and has written where it stands."""

    def __init__(self, number: int, after: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after {after}")
        self.number = number


class StopRequest:
    """Whether a signal has come, and which."""

    number: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Be the handler of a signal."""
        self.number = number


@contextmanager
def catch_signals(signals: Sequence[signal.Signals] = ASKED) -> Iterator[StopRequest]:
    """Note signals instead of ending at them, while the block runs; only the main thread can."""
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
    """End quietly, with the code of SIGPIPE, where whoever reads the output has closed it (`... | head`)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        output, state = sys.stdout.fileno(), select.poll()
        state.register(output, select.POLLERR)
        if not state.poll(0):
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # for what Python flushes at its end
        sys.exit(128 + signal.SIGPIPE)
