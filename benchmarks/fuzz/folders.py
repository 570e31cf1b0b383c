"""Small run folders of every kind, finished and not, and how each is read."""

import json
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from benchmarks.fuzz.isolation import Work, forked
from benchmarks.fuzz.scripts import script
from sfam_bench.runs.chunks import chunk_paths
from sfam_bench.runs.store import RunStore
from sfam_bench.training.checkpoint import Checkpoints

TINY = ("dataset.size=32", "dataset.train_per_class=1", "dataset.test_per_class=2", "model.image_size=32")
UNTRAINED = "protocol.allow=[random_weights]"
PAIRS = ("pairs.kinds=[random_positive,partial_match]", "pairs.count=4", "steps.intervals=4", "batch_size=4")
METHODS = ("explainer=[sfam,lafam,chance]", "metric=[deletion,selectivity]", "min_range=1e-9", "full_share=0")
KEPT = ("maps.save=true", "maps.pictures=1", "passes.mode=eager", "passes.cache=null", "recall_at=[1]")
EVALUATE = (*TINY, UNTRAINED, *PAIRS, *METHODS, *KEPT)
TRAIN = (
    *TINY,
    "train.epochs=4",
    "train.batch_size=40",
    "train.per_class=1",
    "train.checkpoint_steps=3",
    "recall_at=[1]",
)
LONG = 240.0  # seconds for one step of the preparation
KEYS = ["dataset", "model", "target", "explainer", "metric", "query_id", "reference_id"]
# Of a manifest: when and how fast it was made, and the digest of all that
VOLATILE = {
    "created",
    "cost",
    "passes",
    "sha256",
    "sealed",
    "git",
    "versions",
    "merged",
    "code",
    "digests",
    "passes_per_pair",
}
SPEED = ("cost_milliseconds",)


def interrupted(owner: Any, name: str, calls: int, work: Callable[[], Any]) -> None:
    """Do the work in a process that is killed after so many calls of a method."""

    def killed(_: Callable[[str], None]) -> None:
        whole, count = getattr(owner, name), [0]

        def method(*given: Any, **named: Any) -> Any:
            found = whole(*given, **named)
            count[0] += 1
            if count[0] == calls:
                os._exit(0)
            return found

        setattr(owner, name, method)
        work()
        raise RuntimeError(f"{owner.__name__}.{name} was called {count[0]} times, and {calls} were expected")

    done(killed)


def done(work: Work) -> None:
    """Do a step of the preparation in a process of its own."""
    if (status := forked(work, LONG)[1]) != 0:
        raise RuntimeError(f"a step of the preparation failed: {status}")


def evaluate(root: Path, shared: Path, *more: str) -> str:
    """Evaluate the trained model into a folder, or go on there."""
    checkpoint = f"model.checkpoint={shared / 'train' / 'model.safetensors'}"
    return script("evaluate", *EVALUATE, checkpoint, f"run_dir={root}", *more)


def prepare(shared: Path) -> None:
    """A training and an evaluation, whole and interrupted, another evaluation, a plan, and what is right of each."""
    (shared / "home").mkdir()
    os.environ["HOME"] = str(shared / "home")
    os.chdir(shared)
    done(lambda _: script("train", *TRAIN, f"run_dir={shared / 'train'}"))
    interrupted(Checkpoints, "write", 2, lambda: script("train", *TRAIN, f"run_dir={shared / 'training'}"))
    interrupted(RunStore, "write_chunk", 1, lambda: evaluate(shared / "unfinished", shared))
    done(lambda _: evaluate(shared / "run", shared))
    done(lambda _: evaluate(shared / "other", shared, "seed=1", "model.name=another"))
    checkpoint = f"model.checkpoint={shared / 'train' / 'model.safetensors'}"
    done(
        lambda _: (
            script("submit", "verb=plan", *EVALUATE, checkpoint, "shards=2", f"run_dir={shared / 'plan'}") and None
        )
    )
    done(lambda _: script("report", f"runs=[{shared / 'run'}]", f"out={shared / 'report'}"))
    done(lambda _: script("keep", f"run={shared / 'run'}", f"out={shared / 'kept'}", "pictures=9"))
    for name in ("planned", "continued"):
        shutil.copytree(shared / {"planned": "plan", "continued": "training"}[name], shared / name)
    done(lambda _: compute(shared / "planned"))
    done(lambda _: script("train", *TRAIN, f"run_dir={shared / 'continued'}", "resume=true"))
    whole, again = (load_file(shared / name / "model.safetensors") for name in ("train", "continued"))
    if any((whole[name] != again[name]).any() for name in whole):
        raise RuntimeError("a resumed training is not the uninterrupted one")


def compute(root: Path) -> None:
    """Compute the shards of a plan and merge them."""
    try:
        shards = [one["id"] for one in json.loads((root / "plan.json").read_text())["shards"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        shards = ["0" * 16]  # the scripts say what is wrong
    for shard in shards:
        script("work", f"run_dir={root}", f"job={shard}")
    script("submit", "verb=merge", f"run_dir={root}")


def frame(path: Path) -> pd.DataFrame:
    """A table, its rows in an order of their own."""
    found = pd.read_parquet(path)
    text = found.map(str)
    return text.sort_values(list(text.columns)).reset_index(drop=True)


def records(root: Path) -> pd.DataFrame:
    """All records of a folder, merged or not."""
    merged = root / "records.parquet"
    paths = [merged] if merged.is_file() else chunk_paths(root)
    found = pd.concat([pd.read_parquet(path) for path in paths]).astype(dict.fromkeys(KEYS, str))
    return found.sort_values(KEYS).reset_index(drop=True)


def facts(root: Path) -> dict[str, Any]:
    """What a manifest says, but for times."""
    found = json.loads((root / "manifest.json").read_text())
    mode = (found.get("passes") or {}).get("mode")
    return {**{name: value for name, value in found.items() if name not in VOLATILE}, "mode": mode}


def tables(out: Path) -> dict[str, str]:
    """The tables of a report as text, but for times."""
    found = {}
    for path in sorted(out.glob("*.csv")):
        table = pd.read_csv(StringIO(path.read_text()), dtype=str)
        if "metric" in table:
            table = table[~table["metric"].isin(SPEED)]
        found[path.name] = table.drop(columns=[name for name in SPEED if name in table]).to_csv(index=False)
    return found


def contents(out: Path) -> dict[str, Any]:
    """What was kept of a run: tables, manifest, settings, maps and images."""
    found: dict[str, Any] = {path.name: frame(path).to_csv() for path in sorted(out.glob("*.parquet"))}
    found["manifest.json"] = json.dumps(facts(out), sort_keys=True)
    found |= {path.name: path.read_text() for path in out.glob("config.yaml")}
    for path in sorted((out / "maps").glob("*.npz")):
        with np.load(path) as maps:
            found |= {f"map {name}": np.asarray(maps[name]).tobytes() for name in maps.files}
    return found | {f"image {path.name}": path.read_bytes() for path in sorted((out / "images").glob("*"))}


def unequal(found: dict[str, Any], truth: dict[str, Any]) -> str:
    """The first thing that differs between two mappings."""
    for name in sorted(found.keys() | truth.keys()):
        if found.get(name) != truth.get(name):
            return (
                f"{name} differs"
                if name in found and name in truth
                else f"{name} is {'new' if name in found else 'lost'}"
            )
    return ""


def other_records(root: Path, truth: Path) -> str:
    """What differs between the records and pairs of two folders."""
    found, expected = records(root), records(truth)
    if len(found) != len(expected) or not (found[KEYS] == expected[KEYS]).all().all():
        return f"{len(found)} records of other keys, expected {len(expected)}"
    apart = found["value"].sub(expected["value"]).abs().max()
    same = found["value"].isna().equals(expected["value"].isna()) and (found["flag"] == expected["flag"]).all()
    if apart > 1e-6 or not same:
        return f"values of records differ by up to {apart:.3g}" if same else "flags of records differ"
    return "" if frame(root / "pairs.parquet").equals(frame(truth / "pairs.parquet")) else "pairs differ"
