"""Broken run folders: files damaged, removed, exchanged, foreign, or well-formed with what cannot be."""

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from benchmarks.fuzz.attempt import Attempt
from benchmarks.fuzz.damage_bytes import damage
from benchmarks.fuzz.folders import prepare
from benchmarks.fuzz.readers import READERS

__all__ = ["attempt", "prepare"]

IGNORED = (".lock", ".log", ".html")  # no reader needs what is in them
BESIDE = ("images", "logs", "jobs", "running", "tensorboard")


def files(root: Path, *suffixes: str) -> list[Path]:
    """The files of a folder that matter."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name not in BESIDE]
    return [path for path in found if path.suffix not in IGNORED and (not suffixes or path.suffix in suffixes)]


def damaged(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """Bytes of one file are damaged."""
    path = random.choice(files(root))
    return path, damage(path, random.randrange(7), random)


def removed(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """One file is gone."""
    path = random.choice(files(root))
    path.unlink()
    return path, "removed"


def exchanged(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """One file is that of another run."""
    both = [path for path in files(root) if (other / path.relative_to(root)).is_file()] or files(root)
    path = random.choice(both)
    theirs = other / path.relative_to(root)
    shutil.copyfile(theirs if theirs.is_file() else random.choice(files(other)), path)
    return path, "of another run"


def foreign(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """One file holds something else altogether."""
    path = random.choice(files(root))
    how = random.choice(
        ("another table", "empty", "text", "a folder", "a table without rows", "a link to itself", "a pipe")
    )
    rows = pd.DataFrame({"a": [1, 2], "query_id": ["x", "y"]})
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a link to itself":
        path.symlink_to(path.name)
    elif how in ("another table", "a table without rows"):
        (rows if how == "another table" else rows[:0]).to_parquet(path)
    else:
        path.write_text("" if how == "empty" else "no such thing")
    return path, how


def in_json(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """A JSON file is well-formed and says something else."""
    path = random.choice(files(root, ".json"))
    content, text = json.loads(path.read_text()), path.read_text()
    how = random.choice(
        ("another type", "another number", "a key less", "deep", "a list", "twice a key", "NaN", "no UTF-8", "edited")
    )
    key = random.choice([name for name in content if name not in ("sha256", "sealed")])
    value = content[key]
    if how == "another type":
        content[key] = random.choice([None, 7, "seven", [], {}, True, [None], {"a": {}}, -1.5])
    elif how in ("another number", "edited"):
        numbers = [(holder, name) for holder, name in leaves(content) if isinstance(holder[name], int | float | str)]
        holder, name = random.choice(numbers)
        old = holder[name]
        holder[name] = f"{old}x" if isinstance(old, str) else old + 1
        key = f"{name}: {old!r}"
    elif how == "a key less":
        del content[key]
    elif how == "NaN":
        content[key] = float("nan")
    new = json.dumps(content, indent=1)
    if how == "deep":
        new = '{"a":' * 100_000 + "1" + "}" * 100_000
    elif how == "a list":
        new = json.dumps([content])
    elif how == "twice a key":
        new = text.rstrip().removesuffix("}").rstrip() + f', "{key}": {json.dumps(None if value else 7)}}}'
    path.write_bytes(new.encode() if how != "no UTF-8" else b'{"\xff\xfe": 1}')
    return path, f"{how} ({key})"


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Each plain value in a tree, by what holds it and its key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, item in items:
        found += leaves(item) if isinstance(item, dict | list) else [(value, key)]
    return found


def doubled(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """A file lies there a second time, under the name of another of its folder, or of one that should not be."""
    path = random.choice(files(root))
    beside = [one for one in files(root) if one.parent == path.parent and one.suffix == path.suffix and one != path]
    if beside and random.random() < 0.5:
        target = random.choice(beside)
        shutil.copyfile(path, target)
        return target, f"a copy of {path.name}"
    target = path.with_name(f"00009{path.suffix}")
    shutil.copyfile(path, target)
    return target, f"a stray copy of {path.name}"


def untouched(root: Path, random: Random, other: Path) -> tuple[Path, str]:
    """Nothing is broken."""
    return root / "manifest.json", "as it was"


WAYS = (damaged, in_json, removed, exchanged, foreign, damaged, in_json, doubled, untouched)
FOLDERS = ("run", "plan", "run", "unfinished", "training", "run", "train", "plan", "run", "unfinished", "training")


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Break the folder of this number, and read it in one of the ways that there are."""
    name = FOLDERS[number % len(FOLDERS)]
    root, way = folder / name, WAYS[(number // len(FOLDERS) + number % len(FOLDERS)) % len(WAYS)]
    shutil.copytree(shared / name, root)
    path, what = way(root, random, shared / ("train" if name.startswith("train") else "other"))
    reader = random.choice(READERS[name])
    names = (path.name, f"{path.parent.name}/", path.stem, "unfinished", "missing batch", "step-")
    return Attempt(
        f"{reader.__name__} {path.relative_to(folder)}: {what}",
        lambda: reader(root, shared, folder / "out"),
        lambda compare: compare(),
        names,
        sound=way is untouched,
    )
