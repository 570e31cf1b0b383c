"""Files are written whole or not at all, however many hosts write them at once."""

import errno
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfam_bench.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
STALE = 3600  # seconds after which a temporary of another host has no writer any more


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` that takes its place, once it is on the disk, only if the block succeeds.

    Of several writers each has a temporary of its own, and the last to finish is read.
    """
    temporary = path.with_name(f".{path.name[:40]}.{host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every file system syncs folders
            _sync(path.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"the disk is full, or your quota is: {path} was not written, and what was there before is kept; "
            "make room, then start again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def tidy(folder: Path) -> list[Path]:
    """Remove the temporaries whose writers were killed; those that still may be written are left."""
    found = [path for path in folder.glob(".*.tmp") if _stale(path)]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def host() -> str:
    """The name of this machine, fit for a part of a file's name."""
    return socket.gethostname().replace(".", "-")[:40]


def _stale(path: Path) -> bool:
    parts = path.name.rsplit(".", 4)  # the name, host, process, chance, tmp
    if len(parts) == 5 and parts[1] == host() and parts[2].isdigit():
        return not Path(f"/proc/{parts[2]}").exists()
    try:
        return time.time() - path.stat().st_mtime > STALE
    except OSError:  # renamed at this moment
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
