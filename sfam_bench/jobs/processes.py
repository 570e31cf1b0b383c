"""Processes, identified by more than their id, since process ids are reused."""

import os
import signal
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

ALIVE, ENDED, UNKNOWN = "alive", "ended", "unknown"


def identity(pid: int) -> dict[str, Any]:
    """The identity of a process of this machine: host, boot, pid namespace, pid, start time in ticks."""
    return {"host": socket.gethostname(), "boot": _boot(), "space": _space(), "pid": pid, "born": start_time(pid)}


def start_time(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot; None if it has ended."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        )  # its name may contain any character
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def check_process(note: Mapping[str, Any]) -> str:
    """ALIVE, ENDED, or UNKNOWN for a process on another host or in another container, by its note."""
    if note["host"] != socket.gethostname():
        return UNKNOWN
    if note["boot"] != _boot():  # this host was started again since, or another has the same name
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return ENDED if datetime.fromisoformat(note["at"]).timestamp() < booted else UNKNOWN
    if note["space"] != _space():  # another container, with its own pids
        return UNKNOWN
    return ALIVE if note["born"] is not None and start_time(note["pid"]) == note["born"] else ENDED


def is_alive(note: Mapping[str, Any]) -> bool:
    """Whether the process of a note is running on this machine."""
    return check_process(note) == ALIVE


def terminate(note: Mapping[str, Any]) -> bool:
    """Send SIGTERM to the process of a note, if it is still the same process; whether it was sent."""
    if not is_alive(note):
        return False
    try:
        handle = os.pidfd_open(note["pid"])  # is of one process, whoever has its number later
    except ProcessLookupError:
        return False
    try:
        if not is_alive(note):
            return False
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _space() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
