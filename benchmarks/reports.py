"""Seconds and peak memory of a report over many records: python -m benchmarks.reports [--millions 5 20 100].

Each run is of pairs of Stanford Online Products' size, 12 methods and 20 metrics, made without evaluation; it is read
and reported in a fresh process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sfam_bench.core.files import atomic, write_json
from sfam_bench.report.writer import write_report
from sfam_bench.runs.chunks import CURVES, SCHEMA, parquet_format
from sfam_bench.runs.proof import DIGESTS, file_digests

OUT = Path(__file__).parents[1] / "results" / "bench" / "reports.json"
EXPLAINERS, METRICS, CLASSES = 12, 20, 11_316  # as in benchmarks/merge.py, which imports torch
AT_ONCE = 2_000  # pairs of a row group
GROUPS = ["Faithfulness", "Localisation"]


def make(root: Path, millions: float) -> None:
    """A merged run folder of so many million records: every method and metric of every pair."""
    count = round(millions * 1e6 / (EXPLAINERS * METRICS))
    label = np.arange(count) % CLASSES
    pairs = pd.DataFrame(
        {
            **{"query_id": [f"q{n}" for n in range(count)], "reference_id": [f"r{n}" for n in range(count)]},
            **{"kind": "nearest_positive", "query_label": label, "reference_label": label, "score": 0.5},
            **{"query_class": label.astype(str), "reference_class": label.astype(str)},
        }
    )
    root.mkdir(parents=True)
    pairs.to_parquet(root / "pairs.parquet", index=False)
    pq.write_table(CURVES.empty_table(), root / "curves.parquet", **parquet_format(CURVES))
    draw = np.random.default_rng(0)
    explainers = ["lafam", "chance", *(f"method_{n}" for n in range(EXPLAINERS - 2))]
    metrics = [f"metric_{n}" for n in range(METRICS)]
    with pq.ParquetWriter(root / "records.parquet", SCHEMA, **parquet_format(SCHEMA)) as file:
        for start in range(0, count, AT_ONCE):
            file.write_table(_records(pairs[start : start + AT_ONCE], explainers, metrics, draw))
    facts = {
        metric: {"higher_is_better": bool(n % 2), "group": GROUPS[n % 2], "label": metric, "family": metric}
        for n, metric in enumerate(metrics)
    }
    manifest = {
        **{"kind": "evaluate", "dataset": "sop", "model": "made", "target": "similarity", "seed": 0},
        **{"explainers": explainers, "blind": ["lafam", "chance"], "metrics": facts, "done": True},
        **{"merged": {"batches": -(-count // AT_ONCE)}, "config_hash": "0" * 16, "git": "unknown", "code": "0"},
        DIGESTS: file_digests(root),
    }
    write_json(root / "manifest.json", manifest)


def _records(pairs: pd.DataFrame, explainers: list[str], metrics: list[str], draw: np.random.Generator) -> pa.Table:
    size = len(pairs) * len(explainers) * len(metrics)
    undefined = draw.random(size) < 0.01
    codes = np.unravel_index(np.arange(size), (len(pairs), len(explainers), len(metrics)))
    code_of = dict(zip(("pair", "explainer", "metric"), (code.astype(np.int32) for code in codes), strict=True))
    values = {"explainer": explainers, "metric": metrics}
    values |= {side: pairs[side].tolist() for side in ("query_id", "reference_id")}
    values |= {"dataset": ["sop"], "model": ["made"], "target": ["similarity"]}
    columns = {
        name: pa.DictionaryArray.from_arrays(code_of.get(name, code_of["pair"] * (len(own) > 1)), pa.array(own))
        for name, own in values.items()
    }
    columns["value"] = pa.array(np.where(undefined, np.nan, draw.random(size)), from_pandas=False)
    flags = pa.DictionaryArray.from_arrays(undefined.astype(np.int32), pa.array(["", "constant_map"]))
    return pa.table([columns.get(name, flags) for name in SCHEMA.names], schema=SCHEMA)


def measure(root: Path, out: Path) -> dict[str, float]:
    """Report in this process; seconds, and MiB at the peak."""
    before, start = _peak(), time.perf_counter()
    write_report([root], out)
    return {"seconds": time.perf_counter() - start, "before_mib": before, "peak_mib": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Make runs, report each in a process of its own, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[5, 20, 100])
    parser.add_argument("--measure", nargs=2, type=Path, help="report this run folder into this folder, and print")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    found = {}
    for millions in asked.millions:
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder, "run"), Path(folder, "report")
            make(root, millions)
            call = [sys.executable, "-m", "benchmarks.reports", "--measure", str(root), str(out)]
            done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
            found[f"{millions:g} million records"] = json.loads(done.stdout.splitlines()[-1])
            print(f"{millions:g} million records: {done.stdout.strip()}", flush=True)
    with atomic(OUT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
