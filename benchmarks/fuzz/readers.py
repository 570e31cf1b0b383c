"""How a run folder is read, and what is wrong where that differs from the same folder undamaged."""

from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from benchmarks.fuzz.folders import TRAIN, compute, contents, evaluate, facts, other_records, tables, unequal
from benchmarks.fuzz.scripts import script

Reader = Callable[
    [Path, Path, Path], Callable[[], str]
]  # the folder, what is shared, where to write: reads, then compares


def report(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """The tables of a report."""
    script("report", f"runs=[{root}]", f"out={out}")
    return lambda: unequal(tables(out), tables(shared / "report"))


def keep(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """All that is kept of a run."""
    script("keep", f"run={root}", f"out={out}", "pictures=9")
    return lambda: unequal(contents(out), contents(shared / "kept"))


def resume(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """An evaluation continued: records, pairs and facts are those of one that was never interrupted."""
    evaluate(root, shared, "resume=true")
    return lambda: other_records(root, shared / "run") or unequal(facts(root), facts(shared / "run"))


def planned(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """The shards of a plan computed and merged."""
    compute(root)
    return lambda: other_records(root, shared / "planned") or unequal(facts(root), facts(shared / "planned"))


def training(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """A training continued: its weights are those of one that was never interrupted."""
    script("train", *TRAIN, f"run_dir={root}", "resume=true")
    return lambda: other_weights(root / "model.safetensors", shared / "train" / "model.safetensors")


def trained(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """A trained model evaluated."""
    evaluate(out, shared, f"model.checkpoint={root / 'model.safetensors'}", "maps.save=false")

    def wrong() -> str:
        mine, whole = facts(out), facts(shared / "run")
        # without the JSON file beside them, weights are of nobody knows whom
        known = unequal(mine["protocol"], whole["protocol"]) if (root / "model.json").exists() else ""
        return other_records(out, shared / "run") or known

    return wrong


def keep_training(root: Path, shared: Path, out: Path) -> Callable[[], str]:
    """What is kept of a training."""
    script("keep", f"run={root}", f"out={out}")
    names = ("model.json", "history.csv", "retrieval.parquet")
    truth = shared / "kept-training"
    if not truth.exists():
        script("keep", f"run={shared / 'train'}", f"out={truth}")
    return lambda: unequal(*({name: (folder / name).read_bytes() for name in names} for folder in (out, truth)))


def other_weights(path: Path, truth: Path) -> str:
    """What differs between two files of weights."""
    found, expected = load_file(path), load_file(truth)
    if found.keys() != expected.keys():
        return "other entries"
    apart = {name: abs(found[name] - expected[name]).max() for name in found if (found[name] != expected[name]).any()}
    return f"{len(apart)} weights differ, first {min(apart)}" if apart else ""


# A folder of folders.prepare, and how it is read
READERS: dict[str, tuple[Reader, ...]] = {
    "run": (report, keep, resume),
    "unfinished": (resume,),
    "plan": (planned,),
    "training": (training,),
    "train": (trained, keep_training),
}
