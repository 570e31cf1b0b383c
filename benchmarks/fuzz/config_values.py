"""Settings with values that cannot be: of another type, out of range, unknown names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Line:
    """A command line: the settings that are mistaken, what a refusal must name, and when it is right if accepted."""

    script: str
    own: Sequence[str]
    names: tuple[str, ...]
    right: Callable[[str], str] | None = None
    sound: bool = False


WORDS = ("abc", "[1]", "{a: 1}", "null", "true", "''")
COUNTS = (*WORDS, "0", "-1", "1.5", "nan", "inf")
SHARES = (*WORDS, "-0.1", "nan", "inf", "-inf")
SWITCHES = ("maybe", "7", "null", "[true]", "0.5", "''")
SETTINGS: dict[tuple[str, str], Sequence[str]] = {
    **dict.fromkeys((("evaluate", name) for name in ("batch_size", "pairs.count", "steps.intervals")), COUNTS),
    ("evaluate", "seed"): (*WORDS, "-1", "1.5", "nan"),
    ("evaluate", "maps.pictures"): ("abc", "[1]", "-1", "1.5", "nan", "null", "true"),
    ("evaluate", "pairs.per_class"): ("abc", "0", "-1", "1.5", "nan", "true"),
    ("evaluate", "tolerance"): (*WORDS, "-5", "nan"),
    ("evaluate", "evidence_tolerance"): (*WORDS, "-1", "nan"),
    ("evaluate", "min_range"): (*WORDS, "-1", "nan", "inf"),
    ("evaluate", "full_share"): (*SHARES, "1.5"),
    ("evaluate", "passes.tolerance"): SHARES,
    ("evaluate", "passes.seconds"): SHARES,
    ("evaluate", "passes.batch"): ("abc", "0", "-4", "1.5", "nan", "true"),
    ("evaluate", "passes.mode"): ("fast", "[eager]", "7", "null", "Eager"),
    ("evaluate", "recall_at"): ("5", "[0]", "[-1]", "[]", "[a]", "[1.5]", "null", "abc", "[nan]"),
    ("evaluate", "split"): ("tset", "[test]", "7", "null", "''"),
    ("evaluate", "device"): ("tpu", "cuda:99", "7", "[cpu]", "cpu:x"),
    ("evaluate", "unsupported"): ("ignore", "7", "null", "[skip]"),
    ("evaluate", "protocol.allow"): ("[everything]", "all", "7"),
    ("evaluate", "model.image_size"): ("0", "-32", "abc", "1.5", "nan", "[32]", "null"),
    ("evaluate", "dataset.size"): ("0", "-32", "abc", "1.5", "nan", "[32]", "null"),
    ("evaluate", "dataset.test_per_class"): COUNTS,
    ("evaluate", "pairs.kinds"): (
        "[nearest]",
        "[]",
        "nearest_positive",
        "7",
        "null",
        "[random_positive,random_positive]",
    ),
    ("evaluate", "model.checkpoint"): ("7", "[a]", "nowhere.safetensors", "true", ".", "''"),
    ("evaluate", "tuned"): ("nowhere", "7", "[7]", "true"),
    ("evaluate", "baseline.blur.sigma"): ("nan", "-1", "abc", "[1]", "null"),
    ("evaluate", "explainer.sfam.euclidean_cis"): ("nope", "7", "null"),
    **dict.fromkeys(
        (("evaluate", name) for name in ("resume", "maps.save", "curves", "keep_memory", "pairs.others")), SWITCHES
    ),
    **dict.fromkeys(
        (("train", f"train.{name}") for name in ("epochs", "batch_size", "views", "checkpoint_steps")), COUNTS
    ),
    **dict.fromkeys((("train", f"train.{name}") for name in ("lr", "loss_lr")), (*WORDS, "-1", "nan", "inf", "-inf")),
    **dict.fromkeys(
        (("train", f"train.{name}") for name in ("weight_decay", "momentum", "step_factor")), (*WORDS, "-1", "nan")
    ),
    **dict.fromkeys(
        (("train", f"train.{name}") for name in ("clip_norm", "head_lr")), ("abc", "-1", "nan", "[1]", "true")
    ),
    ("train", "train.ema"): ("abc", "-1", "nan", "1.5", "true"),
    ("train", "train.per_class"): ("abc", "-1", "7", "1.5", "nan", "null"),
    ("train", "train.schedule"): ("linear", "7", "null", "[cosine]"),
    ("train", "train.optimiser"): ("adamx", "7", "null"),
    ("train", "train.amp"): ("fp16", "yes", "7", "true"),
    ("train", "train.workers"): ("-1", "abc", "1.5", "nan", "null"),
    ("train", "seed"): ("-1", "abc", "nan", "1.5"),
    ("train", "loss.criterion.margin"): ("abc", "[1]", "null"),
    ("submit", "shards"): ("0", "-1", "abc", "nan", "1.5", "true"),
    ("submit", "task_minutes"): ("0", "-1", "abc", "nan", "null"),
    ("submit", "images_per_second"): ("-1", "nan", "abc", "true"),
    ("submit", "cluster.cpus"): ("0", "-2", "abc", "nan", "1.5"),
    ("submit", "cluster.minutes"): ("0", "-1", "abc", "nan"),
    ("submit", "cluster.memory"): ("-1", "abc", "nan"),
    ("submit", "workers"): ("0", "-1", "abc", "nan"),
}
GROUPS = {
    "evaluate": (
        "dataset",
        "model",
        "pooling",
        "head",
        "similarity",
        "target",
        "steps",
        "experiment",
        "variants",
        "explainer",
        "metric",
    ),
    "train": ("loss", "miner", "recipe", "augmentation", "validation", "model"),
}


def value(random: Random, shared: Path, folder: Path) -> Line:
    """A setting with a value that it cannot have."""
    name, key = random.choice(sorted(SETTINGS))
    given = random.choice(SETTINGS[name, key])
    more = ("verb=plan",) if name == "submit" else ()
    return Line(name, (*more, f"{key}={given}"), (key, key.split(".")[-1].split("_")[-1], *words(key, given)))


def words(key: str, given: str) -> list[str]:
    """What else a refusal may name: the value, where it is one that nothing else has."""
    return [given.strip("[]")] if len(given) > 5 else [f"weights at {given}"] if "checkpoint" in key else []


def group(random: Random, shared: Path, folder: Path) -> Line:
    """A group with a choice that it does not have."""
    name = random.choice(sorted(GROUPS))
    key = random.choice(GROUPS[name])
    listed = key in ("explainer", "metric", "baseline")
    given = random.choice(
        ("[nope]", "[]", "null", "[sfam,nope]", "7") if listed else ("nope", "null", "[a,b]", "7", "''", "../x")
    )
    harmless = key in ("experiment", "variants") and given == "null"
    return Line(name, (f"{key}={given}",), (key, "nope"), (lambda _: "") if harmless else None)


def other_scripts(random: Random, shared: Path, folder: Path) -> Line:
    """report, keep and submit with what they cannot take."""
    run, out = shared / "run", folder / "out"
    (folder / "file").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("not to be lost")
    lines = (
        ("report", ("runs=[]", f"out={out}"), "runs"),
        ("report", ("runs=null", f"out={out}"), "runs"),
        ("report", (f"runs={run}", f"out={out}"), "runs"),
        ("report", (f"runs=[{run},{run}]", f"out={out}"), "run"),
        ("report", (f"runs=[{folder / 'nowhere'}]", f"out={out}"), "nowhere"),
        ("report", (f"runs=[{shared / 'train'}]", f"out={out}"), "train"),
        ("report", (f"runs=[{run}]", f"out={folder / 'file'}"), "file"),
        ("report", (f"runs=[{run}]", f"out={folder / 'full'}"), "full"),
        ("report", (f"runs=[{run}]", "out=/proc/nowhere"), "/proc"),
        ("report", (f"runs=[{run}]", "out=''"), "out"),
        ("report", (f"runs=[{run}]", "out=7"), "out"),
        ("report", (f"runs=[{run}]", f"out={out}", "allow_unfinished=perhaps"), "allow_unfinished"),
        ("report", (f"out={out}",), "runs"),
        ("keep", (f"run={folder / 'nowhere'}", f"out={out}"), "nowhere"),
        ("keep", (f"run={run}", f"out={folder / 'full'}"), "full"),
        ("keep", (f"run={run}", f"out={out}", "pictures=-1"), "pictures"),
        ("keep", (f"run={run}", f"out={out}", "pictures=nan"), "pictures"),
        ("keep", (f"run={run}",), "out"),
        ("submit", ("verb=plna", f"run_dir={out}"), "plna"),
        ("submit", (f"run_dir={out}",), "verb"),
        ("submit", ("verb=run", f"run_dir={folder / 'nowhere'}"), "nowhere"),
        ("submit", ("verb=status", f"run_dir={run}"), "run"),
        ("submit", ("verb=merge", f"run_dir={run}", "partial=1"), "partial"),
        ("work", (f"run_dir={run}", "shard=7"), "run"),
        ("work", (f"run_dir={folder / 'nowhere'}", "shard=abc"), "nowhere"),
    )
    name, own, named = random.choice(lines)
    return Line(f"{name} ".strip(), own, (named,))


WAYS = (value, value, value, group, value, other_scripts)
