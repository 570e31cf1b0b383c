"""What sharding costs and gives: one process beside one and two workers, by the clock and in CPU time.

Each side is pinned to one core a process, plans and merges included. python -m benchmarks.shards [--pairs 300]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from sfam_bench.runs.reader import read_records

SCRIPTS = Path(__file__).parents[1] / "experiments"
KEYS = ["explainer", "metric", "query_id", "reference_id"]


def main() -> None:
    """Measure, compare the records, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=300, help="of each of two kinds; 300 take some minutes a side")
    parser.add_argument("--minutes", type=int, default=2, help="that a shard should take; the plan's default is 10")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    settings = ["experiment=planted", f"pairs.count={asked.pairs}", "batch_size=8", "passes.mode=eager"]
    settings.append("protocol.allow=[random_weights]")
    planned = [*settings, "cluster.cpus=1", f"task_minutes={asked.minutes}"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sides = {
            "one process": [["evaluate", *settings, f"run_dir={root / 'whole'}"]],
            "1 worker": sharded(root / "one", planned, 1),
            "2 workers": sharded(root / "two", planned, 2),
        }
        found = {name: measured(commands) for name, commands in sides.items()}
        whole, *others = (records(root / name) for name in ("whole", "one", "two"))
        for other in others:
            pd.testing.assert_frame_equal(whole, other, rtol=0, atol=1e-6)
        shards = len(json.loads((root / "one" / "plan.json").read_text())["shards"])
    (clock, work), (clock_1, work_1), (clock_2, _) = found.values()
    figures = {
        "pairs": 2 * asked.pairs,
        "shards": shards,
        "records": len(whole),
        **{f"{name}: {kind}": round(x, 1) for name, both in found.items() for kind, x in zip(KINDS, both, strict=True)},
        "overhead of sharding, clock": round(clock_1 / clock - 1, 4),
        "overhead of sharding, CPU": round(work_1 / work - 1, 4),
        "speed-up of 2 workers over 1": round(clock_1 / clock_2, 2),
    }
    print(json.dumps(figures, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=2) + "\n")


KINDS = ("seconds", "CPU seconds")


def sharded(run: Path, settings: Sequence[str], workers: int) -> list[list[str]]:
    """Plan, run and merge."""
    where = f"run_dir={run}"
    return [
        ["submit", "plan", *settings, f"workers={workers}", where],
        ["submit", "run", f"workers={workers}", "wait=true", where],
        ["submit", "merge", where],
    ]


def measured(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds, of some scripts one after the other; the scripts alone have one core."""
    cores = sorted(os.sched_getaffinity(0))
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for script, *arguments in commands:
        mine = cores if arguments[0] == "run" else cores[:1]
        subprocess.run(
            [sys.executable, str(SCRIPTS / f"{script}.py"), *arguments],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(os.sched_setaffinity, 0, mine),
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, worked


def records(root: Path) -> pd.DataFrame:
    """The records of a run in one order."""
    return read_records(root).sort_values([*KEYS, "value"], ignore_index=True)


if __name__ == "__main__":
    main()
