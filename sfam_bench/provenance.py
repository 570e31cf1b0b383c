"""What made a run: its code, its packages, its config."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Config: TypeAlias = Mapping[str, Any]
PACKAGES = ("sfam-bench", "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "pyarrow", "pillow")


def run_facts() -> dict[str, Any]:
    """The code that runs: its git hash ('unknown' outside its checkout) and the package versions."""
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"git": _git_hash(), "versions": versions}


def config_hash(config: Config) -> str:
    """A short hash of a config, whatever the order of its keys."""
    text = json.dumps(plain(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """The same in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Each setting in which two configs differ, as "train.lr was 0.1, is 0.2"; nothing where one is no config."""
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        return [f"{name} was {_shown(was)}, is {_shown(now)}"] if name and was != now else []
    found = []
    for key in sorted({*was, *now}):
        inner = f"{name}.{key}" if name else str(key)
        if key in was and key in now:
            found += differences(was[key], now[key], inner)
        else:
            found.append(f"{inner} {'was not given' if key in now else 'is not given any more'}")
    return found


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)[:60]


def code_hash() -> str:
    """A hash of the source of this package: a run refuses to go on with other code than it was begun with."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _git_hash() -> str:
    """HEAD of the checkout that tracks this package, with '-dirty' if its files have changed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie within a stranger's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
