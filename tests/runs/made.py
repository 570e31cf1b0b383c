"""A small planned run by hand: seven pairs of two kinds in four batches, and processes that die of it."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from sfam_bench.core.files import digest
from sfam_bench.core.provenance import config_hash, running_code
from sfam_bench.jobs.merge import merge
from sfam_bench.jobs.plan import Plan, cut_shards
from sfam_bench.runs.store import RunStore
from tests.processes import preload

KEY, BATCH = "0123456789abcdef", 2
PASSES = {"mode": "eager", "batch": 4}
# kinds are mixed, and the pair of a and r is of both
PAIRS = [("a", "near"), ("a", "hard"), ("b", "near"), ("c", "near"), ("d", "hard"), ("e", "near"), ("f", "near")]
BATCHES = [["a", "b"], ["c", "e"], ["f"], ["a", "d"]]  # by hand: near first, as it comes first
EXPLAINERS, METRICS = ("sfam", "chance"), ("deletion_mean_colour", "insertion_mean_colour")
FACTS = {"metrics": {name: {"higher_is_better": True} for name in (*METRICS, "wanting", "drawn")}}


preload("tests.runs.made")


def records(queries: list[str], number: int) -> list[dict[str, object]]:
    """Each explainer, metric and pair once, and a fact of each pair; the value tells the batch."""
    where = {"dataset": "cub", "model": "lite0", "target": "similarity", "reference_id": "r", "flag": ""}
    named = [(e, m) for e in EXPLAINERS for m in METRICS] + [("pair", "s_full")]
    return [
        {**where, "explainer": e, "metric": m, "query_id": query, "value": number + place / 16}
        for place, (e, m) in enumerate(named)
        for query in queries
    ]


def curves(queries: list[str], number: int) -> list[SimpleNamespace]:
    """A curve of each pair."""
    points = {"fraction": [0.0, 1.0], "score": [1.0, number / 8]}
    return [
        SimpleNamespace(explainer="sfam", curve="deletion", query_id=q, reference_id="r", **points) for q in queries
    ]


def maps(queries: list[str], number: int) -> dict[str, np.ndarray]:
    """A map of each pair."""
    ids = {"query_id": np.array(queries), "reference_id": np.array(["r"] * len(queries))}
    return {**ids, "sfam/query": np.full((len(queries), 2, 3), number, np.float32)}


def write(store: RunStore, number: int, skipped: tuple[str, ...] = ()) -> None:
    """Write a batch as a worker would."""
    queries = [query for query in BATCHES[number] if query not in skipped]
    why = [(query, "r", "no such image") for query in skipped]
    given = [make(queries, number) for make in (records, maps, curves)]
    store.write_chunk(number, *given, why)  # type: ignore[arg-type]


def planned(root: Path) -> tuple[RunStore, Plan]:
    """A planned run, of which nothing is computed."""
    store = replace(RunStore.create(root, {"seed": 0}, FACTS, key=KEY), passes=PASSES)
    labels = {"reference_id": "r", "negative_id": "", "score": 0.5, "query_label": 1, "query_class": "x"}
    store.write_pairs(pd.DataFrame([{"query_id": query, "kind": kind, **labels} for query, kind in PAIRS]))
    sizes = [len(batch) for batch in BATCHES]
    config, code = {"metric": {"drawn": {"share": 0.02}}}, running_code()
    frozen = {name: digest(root / name) for name in ("pairs.parquet", "config.yaml")}
    facts = {"identity": config_hash({"seed": 0})}
    plan = Plan(KEY, code, "", config, PASSES, {}, sizes, 1.0, 1.0, cut_shards(sizes, 2, KEY), frozen, facts)
    plan.write(root)
    return store, plan


def computed(root: Path) -> tuple[RunStore, Plan]:
    """A planned run, all of which is computed."""
    store, plan = planned(root)
    for number in range(len(BATCHES)):
        write(store, number)
    return store, plan


def die(root: Path, step: int) -> None:
    """Merge, and be killed before the given step that touches a file."""
    left = [step]

    def count(event: str, given: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(given[0]).startswith(str(root)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    merge(root, Plan.read(root))


def rewrite(root: Path, number: int, times: int) -> None:
    """Write a batch again and again."""
    for _ in range(times):
        write(RunStore(root, KEY, PASSES), number)
