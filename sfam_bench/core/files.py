"""Atomic writes, sealed JSON, locks and digests of files; safe for many hosts that write at once."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST = 255  # bytes of a file's name
STALE = 3600  # seconds after which a temporary file of another host is taken to have lost its writer
SEAL, SEALED = "sha256", "sealed"  # two keys of a sealed JSON file, so that one damaged byte cannot remove both

log = logging.getLogger(__name__)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, it is synced to disk and replaces `path`.

    Each of several writers has its own temporary file; the last one to finish wins. UserError if `path` is a folder.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the path of a file")
    temporary = _temporary(path)
    try:
        with explain_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            with suppress(OSError):  # not every file system syncs folders
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Raise UserError if writing `path` in the block fails because the disk or the quota is full."""
    try:
        yield
    except Exception as error:
        if not _disk_is_full(error):
            raise
        raise UserError(
            f"the disk is full or over quota: {path} was not written, and its old content is kept; make room, "
            "then start again"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise UserError if files cannot be written into a folder, which need not exist; leaves everything as it was."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}): choose another folder") from error
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def fit_name(stem: str, suffix: str) -> str:
    """The name of a file; of one that file systems do not hold, the first characters, "~" and a hash of the stem."""
    if len(stem.encode()) + len(suffix) <= LONGEST:
        return stem + suffix
    return f"{stem[:100]}~{hashlib.sha256(stem.encode()).hexdigest()[:32]}{suffix}"


def check_regular(path: Path) -> Path:
    """Return the path; OSError if it is a pipe, a socket or a device, where reading may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with check_regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object with the digest of its content, atomically."""
    body = {**{name: value for name, value in facts.items() if name != SEAL}, SEALED: True}
    write_text(path, json.dumps({**body, SEAL: _content_digest(body)}, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object and verify its digest.

    A file of an older version, which has no digest, is read with a warning. UserError, ending with `remedy`, if the
    file cannot be read, holds no JSON object, or differs from what was written.
    """
    try:
        found = json.loads(check_regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: {remedy}")
    if SEAL not in found and SEALED not in found:
        log.warning("%s carries no digest (written by an older version): its content is not verified", path)
        return found
    if found.pop(SEAL, None) != _content_digest(found):
        raise UserError(f"{path} is damaged or was edited (its digest differs): {remedy}")
    del found[SEALED]
    return found


def _content_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def acquire_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; the system releases it when this process ends.

    UserError, beginning with `what`, if another process holds it. No lock is taken on a file system without locks.
    """
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock would stay held by workers of a killed process
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise UserError(
                f"{what} by another process ({file.read().strip() or 'unknown'}): wait until it ends, or give another "
                "run_dir"
            ) from None
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):  # a full disk is reported by the writers
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()} on {host()}".encode())
        yield


def remove_stale_temporaries(folder: Path, pattern: str = ".*.tmp") -> list[Path]:
    """Remove and return the temporary files whose writers were killed; those that may still be written stay."""
    found = [path for path in folder.glob(pattern) if _is_stale(path)]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path` for building its replacement; those of killed writers are removed."""
    remove_stale_temporaries(path.parent, f".{escape(path.name[:40])}.*.tmp")
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:40]}.{host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def host() -> str:
    """The name of this machine, safe as part of a file name."""
    return socket.gethostname().replace(".", "-")[:40]


def _is_stale(path: Path) -> bool:
    parts = path.name.rsplit(".", 4)  # name, host, process, random token, tmp
    if len(parts) == 5 and parts[1] == host() and parts[2].isdigit():
        return not Path(f"/proc/{parts[2]}").exists()
    try:
        return time.time() - path.stat().st_mtime > STALE
    except OSError:  # renamed meanwhile
        return False


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error or one of its causes says so; safetensors passes on only the message of the system's error."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(f"(os error {number})" in str(error) for number in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
