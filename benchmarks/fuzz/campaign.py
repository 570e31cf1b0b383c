"""Many attempts of a kind, and their counts."""

import importlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from benchmarks.fuzz.attempt import GOOD, OUTCOMES, Attempt
from benchmarks.fuzz.isolation import forked, isolated
from sfam_bench.core.imports import importing

KINDS = ("data", "checkpoints", "runs", "configs", "images", "damage")
PREPARATION = 600.0  # seconds for what all attempts of a kind share
# Imported before any attempt, so that none pays for it
LIBRARIES: tuple[str, ...] = (
    "torch",
    "torchvision",
    "timm",
    "pandas",
    "pyarrow.parquet",
    "scipy.io",
    "sfam_bench.app.evaluation",
)
LIBRARIES += (
    "sfam_bench.app.planning",
    "sfam_bench.app.training",
    "sfam_bench.report",
    "sfam_bench.report.keep",
    "sfam_bench.api",
)


def campaign(kind: str, numbers: Iterable[int], seed: int, seconds: float, shared: Path) -> dict[str, Any]:
    """Counts by outcome, and each attempt that was neither right nor refused, with what makes it again.

    What the attempts of several kinds share is made once, in the folder `shared`.
    """
    with importing():
        for library in LIBRARIES:
            importlib.import_module(library)
    module: Any = importlib.import_module(f"benchmarks.fuzz.{kind}")
    prepare: Callable[[Path], None] | None = getattr(module, "prepare", None)
    if prepare and not any(shared.iterdir()) and forked(lambda _: prepare(shared), PREPARATION)[1] != 0:
        raise RuntimeError(f"what the attempts of {kind} share could not be made: FUZZ_SHOW=1 shows why")
    counts, bad = Counter[str](), []
    for number in tqdm([*getattr(module, "numbers", list)(numbers)], desc=kind, unit="input"):
        make: Callable[[Path], Attempt] = partial(module.attempt, number, Random(f"{kind} {seed} {number}"), shared)
        what, found = isolated(make, seconds)
        counts[found.name] += 1
        if found.name not in GOOD:
            which = {"number": number, "seed": seed, "outcome": found.name}
            bad.append({**which, "input": placeless(what), "message": placeless(found.message)})
    return {"counts": {name: counts[name] for name in OUTCOMES}, "bad": bad}


def placeless(text: str) -> str:
    """A text without the names of temporary folders."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/fuzz-[\w-]+", "FOLDER", text)


def table(found: dict[str, Any]) -> str:
    """The counts, a line a kind."""
    rows = [("", *OUTCOMES), *((kind, *map(str, one["counts"].values())) for kind, one in found.items())]
    sums = [str(sum(one["counts"][name] for one in found.values())) for name in OUTCOMES]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [*rows, ("all", *sums)]
    )
