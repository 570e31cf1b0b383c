"""Damaged copies of each file of a run, a plan and a training: how many are read in silence."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from random import Random

from benchmarks.fuzz import readers
from benchmarks.fuzz.attempt import Attempt
from benchmarks.fuzz.damage_bytes import damage
from benchmarks.fuzz.folders import prepare
from benchmarks.fuzz.readers import Reader

__all__ = ["attempt", "numbers", "prepare"]

COPIES = 100
FILES: tuple[tuple[str, str, Reader], ...] = (
    *(("run", name, readers.keep) for name in ("pairs.parquet", "manifest.json", "config.yaml")),
    *(("run", name, readers.keep) for name in ("records/00001.parquet", "curves/00001.parquet", "maps/00001.npz")),
    *(
        ("plan", name, readers.planned)
        for name in ("plan.json", "gallery.safetensors", "pairs.parquet", "manifest.json")
    ),
    *(
        ("training", f"checkpoints/*/{name}", readers.training)
        for name in ("state.json", "learning.pt", "model.safetensors")
    ),
    *(("train", name, readers.trained) for name in ("model.safetensors", "model.json")),
)


def numbers(asked: Iterable[int]) -> list[int]:
    """As many copies of each file as inputs are asked for, at most COPIES; a single number is itself."""
    given = list(asked)
    return given if len(given) == 1 else list(range(len(FILES) * min(COPIES, len(given))))


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Damage one file, in one of the ways that there are, and read its folder."""
    name, pattern, reader = FILES[number % len(FILES)]
    root = folder / name
    shutil.copytree(shared / name, root)
    (path,) = root.glob(pattern)
    what = damage(path, number // len(FILES), random)
    return Attempt(
        f"{reader.__name__} {name}/{what}",
        lambda: reader(root, shared, folder / "out"),
        lambda compare: compare(),
        (path.name, path.stem, f"{path.parent.name}/", "step-"),
    )
