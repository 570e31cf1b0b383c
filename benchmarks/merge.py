"""Seconds and peak memory of merging many records: python -m benchmarks.merge [--millions 20].

Makes the pieces that workers would leave, merges them in a fresh process, and a run of one million beside it, whose
peak tells whether memory grows with the rows.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from sfam_bench.core.files import atomic, digest
from sfam_bench.core.provenance import config_hash, running_code
from sfam_bench.datasets.batches import cut_batches
from sfam_bench.jobs.merge import merge
from sfam_bench.jobs.plan import PAIRS, Plan, cut_shards
from sfam_bench.runs.store import RunStore

OUT = Path(__file__).parents[1] / "results" / "bench" / "merge.json"
EXPLAINERS, METRICS, BATCH = 12, 20, 32  # 7,680 records a piece
CLASSES, IMAGES = 11_316, 60_502  # of the test half of Stanford Online Products
KEY = "0123456789abcdef"


def pairs(count: int) -> pd.DataFrame:
    """Pairs of two kinds, with ids as long as those of Stanford Online Products."""
    draw = np.random.default_rng(0)
    shown = draw.integers(IMAGES, size=(2, count))
    ids = {
        f"{side}_id": [f"chair_final/{111_000_000_000 + 7919 * (image % CLASSES)}_{image}.JPG" for image in images]
        for side, images in zip(("query", "reference"), shown.tolist(), strict=True)
    }
    kinds = np.where(np.arange(count) < count // 2, "nearest_positive", "hard_negative")
    # no pair twice of a kind
    return pd.DataFrame({**ids, "kind": kinds}).drop_duplicates(ignore_index=True)


def make(root: Path, millions: float) -> Plan:
    """A run folder, planned and computed."""

    table = pairs(round(millions * 1e6 / (EXPLAINERS * METRICS)))
    frames = cut_batches(table, BATCH)
    sizes = [len(frame) for frame in frames]
    names = {f"metric_{number}": {"higher_is_better": True} for number in range(METRICS)}
    store = RunStore.create(root, {"seed": 0}, {"metrics": names}, key=KEY)
    store.write_pairs(table)
    draw = np.random.default_rng(0)
    for number, frame in enumerate(frames):
        store.write_chunk(number, records(frame, draw), curves=curves(frame, draw))
    frozen, facts = {PAIRS: digest(root / PAIRS)}, {"identity": config_hash({"seed": 0})}
    plan = Plan(KEY, running_code(), "", {}, {}, {}, sizes, 1.0, 1.0, cut_shards(sizes, 100, KEY), frozen, facts)
    plan.write(root)
    return plan


def records(frame: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """Records of a batch: each explainer, metric and pair, one in a hundred without a value."""
    grid = [np.repeat(np.arange(EXPLAINERS), METRICS * len(frame))]
    grid += [np.tile(np.repeat(np.arange(METRICS), len(frame)), EXPLAINERS)]
    which = np.tile(np.arange(len(frame)), EXPLAINERS * METRICS)
    undefined = draw.random(len(which)) < 0.01
    return pd.DataFrame(
        {
            **{"dataset": "sop", "model": "resnet50 arcface", "target": "similarity"},
            "explainer": np.array([f"explainer_{number}" for number in range(EXPLAINERS)])[grid[0]],
            "metric": np.array([f"metric_{number}" for number in range(METRICS)])[grid[1]],
            **{side: frame[side].to_numpy()[which] for side in ("query_id", "reference_id")},
            "value": np.where(undefined, np.nan, draw.random(len(which))),
            "flag": np.where(undefined, "constant_map", ""),
        }
    )


def curves(frame: pd.DataFrame, draw: np.random.Generator) -> list[SimpleNamespace]:
    """Deletion and insertion of each explainer and pair, 21 points each."""
    at = np.linspace(0, 1, 21).tolist()
    return [
        SimpleNamespace(
            explainer=f"explainer_{number}",
            curve=walk,
            query_id=query,
            reference_id=reference,
            fraction=at,
            score=draw.random(21).tolist(),
        )
        for number in range(EXPLAINERS)
        for walk in ("deletion_mean_colour", "insertion_mean_colour")
        for query, reference in zip(frame["query_id"], frame["reference_id"], strict=True)
    ]


def measure(root: Path) -> dict[str, float | int]:
    """Merge in this process, and say what it took."""
    before, start = peak(), time.perf_counter()
    found = merge(root, Plan.read(root))
    seconds, cpu = time.perf_counter() - start, time.process_time()
    sizes = {f"{kind}_mb": (root / f"{kind}.parquet").stat().st_size / 1e6 for kind in ("records", "curves")}
    facts = {
        "rows": found.rows,
        "pieces": found.batches,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "rows_a_second": found.rows / seconds,
    }
    return {**facts, "before_mib": before, "peak_mib": peak(), **sizes, "pieces_mb": size(root)}


def peak() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(root: Path) -> float:
    """Megabytes of all pieces."""
    return sum(path.stat().st_size for kind in ("records", "curves") for path in (root / kind).iterdir()) / 1e6


def main() -> None:
    """Make, merge, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=20, help="records to merge")
    parser.add_argument("--make", help="make this run folder, and do nothing else")
    parser.add_argument("--here", help="merge this run folder in this process and print what it took")
    options = parser.parse_args()
    if options.make:
        make(Path(options.make), options.millions)
        return
    if options.here:
        print(json.dumps(measure(Path(options.here))))
        return
    rows = []
    for millions in dict.fromkeys((min(1.0, options.millions), options.millions)):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.merge", "--millions", str(millions)]
            # both in processes of their own: one begins with the peak of the process that began it
            subprocess.run([*command, "--make", f"{folder}/run"], check=True)
            done = subprocess.run([*command, "--here", f"{folder}/run"], check=True, stdout=subprocess.PIPE)
            row = json.loads(done.stdout)
        rows.append(row)
        print(
            f"{row['rows']:,} records in {row['pieces']:,} pieces ({row['pieces_mb']:.0f} MB): {row['seconds']:.1f} s "
            f"({row['cpu_seconds']:.1f} s of CPU), "
            f"{row['rows_a_second']:,.0f} a second, peak {row['peak_mib']:.0f} MiB ({row['before_mib']:.0f} before), "
            f"records {row['records_mb']:.0f} MB, curves {row['curves_mb']:.0f} MB",
            flush=True,
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with atomic(OUT) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
