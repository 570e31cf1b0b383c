"""Write docs/differential.md: python -m benchmarks.differential."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

import benchmarks.differential
from benchmarks.differential.comparison import Comparison

PAGE = Path(__file__).parents[2] / "docs" / "differential.md"
HEAD = """# Validation against other implementations

This page is written by `make differential`; `make test-all` runs the same comparisons. Maps are compared before ReLU,
resizing and min-max scaling of either implementation, over all settings listed. *Difference* is the largest absolute
difference, as a share of the largest magnitude of the other implementation's map. "By definition" is a loop that
shares no code with the method. Code of authors that is no package is run from checkouts of their repositories:
`make differential PEERS=folder`, with explain-cl (fawazsammani/explain-cl), pairx (pairx-explains/pairx), C3A
(MountainChenCad/C3A), ProtoShotXAI (samuelhess/ProtoShotXAI), xSSAB (marcohuber/xSSAB) and fame (AIML-IfI/fame) below
it; the TensorFlow models of C3A and ProtoShotXAI are replaced by ours.
"""


def comparisons() -> Iterator[Comparison]:
    """What every module of this package compares."""
    for module in pkgutil.iter_modules(benchmarks.differential.__path__):
        if module.name != "__main__":
            yield from getattr(
                importlib.import_module(f"{benchmarks.differential.__name__}.{module.name}"), "COMPARISONS", ()
            )


def line(comparison: Comparison) -> str:
    """A row of the table."""
    start = f"| {comparison.method} | {comparison.peer} | "
    if not comparison.installed:
        return f"{start} | not installed | |"
    found = comparison.differences()
    largest = max(found.values())
    agree = largest <= comparison.tolerance
    verdict = (
        "differs" if comparison.cause and not agree else "agrees" if agree and not comparison.cause else "UNEXPLAINED"
    )
    settings = f"{len(found)} settings" if len(found) > 1 else next(iter(found))
    return f"{start}{settings} | {largest:.0e} | {verdict} | {comparison.cause} |"


def main() -> None:
    """Compare everything and write the page."""
    found = sorted(comparisons(), key=lambda c: (c.method, c.peer))
    rows = [line(comparison) for comparison in tqdm(found, desc="differential")]
    table = ["| method | compared with | settings | difference | | cause |", "|---|---|---|---|---|---|", *rows]
    PAGE.write_text("\n".join([HEAD, *table, ""]))
    print(f"{len(rows)} comparisons: {PAGE}")


if __name__ == "__main__":
    main()
