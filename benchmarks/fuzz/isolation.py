"""Each attempt in a forked process of its own, so that one that crashes or never ends costs nothing but itself."""

import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.fuzz.attempt import Attempt, Outcome, judge

Work = Callable[[Callable[[str], None]], Any]  # is given what tells a line
MEMORY = 6 << 30  # bytes that an attempt may take beyond what it began with


def isolated(make: Callable[[Path], Attempt], seconds: float) -> tuple[str, Outcome]:
    """Make an input in an empty folder and judge it, in a process of its own: what was done, and what came of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        said, status = forked(lambda tell: _attempt(make, folder, tell), seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    what = said[0] if said else "the input could not be made"
    if len(said) > 1:
        return what, Outcome(*json.loads(said[1]))
    if status is None:
        return what, Outcome("hang", f"no end within {seconds:.0f} s")
    if os.WIFSIGNALED(status):
        return what, Outcome("crash", f"signal {os.WTERMSIG(status)} ({signal.Signals(os.WTERMSIG(status)).name})")
    return what, Outcome("crash", f"exit code {os.waitstatus_to_exitcode(status)} without a result")


def forked(work: Work, seconds: float) -> tuple[list[str], int | None]:
    """Lines that `work` told from its own process, and its exit status; no status where it had to be killed."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        _work(work, writing)
    os.close(writing)
    text, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([reading], [], [], left)[0] or not (more := os.read(reading, 1 << 16)):
            break
        text += more
    os.close(reading)
    status = _ended(child, end)
    with suppress(ProcessLookupError, PermissionError):  # what it began
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return text.decode().splitlines(), status


def _work(work: Work, writing: int) -> NoReturn:
    """In the child: never returns."""
    code = 1
    try:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        if not os.environ.get("FUZZ_SHOW"):
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
        work(lambda line: _tell(writing, line))
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _tell(writing: int, line: str) -> None:
    os.write(writing, line.replace("\n", " ").encode(errors="replace") + b"\n")


def _attempt(make: Callable[[Path], Attempt], folder: Path, tell: Callable[[str], None]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    os.environ["HOME"] = str(folder / "home")
    (folder / "home").mkdir()
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    attempt = make(folder)
    tell(attempt.what)
    outcome = judge(attempt)
    tell(json.dumps([outcome.name, outcome.message]))


def _ended(child: int, end: float) -> int | None:
    """The exit status of the child, once it has one, or nothing."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.005)
