"""Processes identified so that no other is taken for them, since numbers of processes are used again."""

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
    """What identifies a process of this machine: host, boot and namespace of numbers, number, start time in ticks."""
    return {"host": socket.gethostname(), "boot": _boot(), "space": _space(), "pid": pid, "born": start_time(pid)}


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot; None where there is none, or only its exit code."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def check_process(note: Mapping[str, Any]) -> str:
    """Whether the process that a note identifies is ALIVE or has ENDED; UNKNOWN where this cannot be seen from here."""
    if note["host"] != socket.gethostname():
        return UNKNOWN
    if note["boot"] != _boot():  # this host was started again since, or another has the same name
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return ENDED if datetime.fromisoformat(note["at"]).timestamp() < booted else UNKNOWN
    if note["space"] != _space():  # a container, which numbers its processes anew
        return UNKNOWN
    return ALIVE if note["born"] is not None and start_time(note["pid"]) == note["born"] else ENDED


def is_alive(note: Mapping[str, Any]) -> bool:
    """Whether the process that a note identifies runs on this machine."""
    return check_process(note) == ALIVE


def terminate(note: Mapping[str, Any]) -> bool:
    """Send SIGTERM to the process that a note identifies, and to no other; whether it was sent."""
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
