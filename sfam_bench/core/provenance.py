"""Code, packages and config of a run: hashes and differences."""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Config: TypeAlias = Mapping[str, Any]
ABSENT = "not set"
PACKAGES = ("sfam-bench", "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "pyarrow", "pillow")


def run_facts() -> dict[str, Any]:
    """Hash and git commit ('unknown' outside its checkout) of the running code, and package versions."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"git": _git_hash(), "code": running_code(), "versions": versions}


def config_hash(config: Config) -> str:
    """A short hash of a config, independent of the order of its keys."""
    text = json.dumps(to_plain(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(was: Config, now: Config, most: int = 5) -> str:
    """The first few settings that differ between two configs, as "NAME was A, is B"; empty if they are equal."""
    before, after = dict(_flatten(to_plain(was))), dict(_flatten(to_plain(now)))
    names = [name for name in {**before, **after} if before.get(name, ABSENT) != after.get(name, ABSENT)]
    shown = [f"{name} was {before.get(name, ABSENT)}, is {after.get(name, ABSENT)}" for name in names[:most]]
    return "; ".join([*shown, *([f"and {len(names) - most} more"] if len(names) > most else [])])


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each plain value of a nested mapping as JSON, by its dotted name."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}".lstrip("."))
    else:
        yield name, json.dumps(value, ensure_ascii=False, sort_keys=True)


def to_plain(value: Any) -> Any:
    """Convert a nested value to JSON types."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def code_hash() -> str:
    """A hash of this package's source; a run refuses to continue with other code than it was started with."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def running_code() -> str:
    """The code_hash of this process, computed once: the source may change while it runs."""
    return code_hash()


def _git_hash() -> str:
    """The HEAD commit of the checkout that tracks this package, with '-dirty' if its files have changed."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=folder, stderr=subprocess.DEVNULL, text=True).strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie inside another project's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
