"""Command lines and files with unknown names, special characters, paths that cannot be, and settings at odds."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.config_values import Line

KEYS: tuple[str, ...] = (
    "dataset",
    "pairs.count",
    "pairs.kinds",
    "batch_size",
    "run_dir",
    "model.name",
    "maps.save",
    "passes.mode",
    "tolerance",
)
KEYS += (
    "model.pooling",
    "recall_at",
    "explainer",
    "metric",
    "full_share",
    "dataset.size",
    "protocol.allow",
    "prepare.split",
)
TRAINED = ("train.epochs", "train.lr", "train.weight_decay", "loss.criterion", "augmentation.crop", "validation.every")


def misspelt(key: str, random: Random) -> str:
    """A name with one letter lost, doubled, exchanged or in the other case."""
    at = random.choice([at for at, letter in enumerate(key) if letter.isalpha() and at + 1 < len(key)])
    how = random.randrange(4)
    middle = ("", key[at] * 2, key[at + 1] + key[at], key[at].upper())[how]
    found = key[:at] + middle + key[at + (2 if how == 2 else 1) :]
    return found if found != key else key + "s"


def typo(random: Random, shared: Path, folder: Path) -> Line:
    """An unknown setting, with and without the sign that adds one."""
    name = random.choice(("evaluate", "evaluate", "train"))
    wrong = misspelt(random.choice(KEYS if name == "evaluate" else TRAINED), random)
    sign = random.choice(("", "+", "++", "~", "+", "++"))
    return Line(name, (f"{sign}{wrong}" if sign == "~" else f"{sign}{wrong}=4",), (wrong, f"'{wrong.split('.')[-1]}'"))


def in_file(random: Random, shared: Path, folder: Path) -> Line:
    """A YAML file of one's own with an unknown setting, or one that is none."""
    wrong = misspelt(random.choice(KEYS), random)
    texts = {
        "unknown": f"# @package _global_\n{nested(wrong, 4)}",
        "tab": "# @package _global_\npairs:\n\tcount: 4\n",
        "twice": "# @package _global_\npairs:\n  count: 4\n  count: 5\n",
        "list": "# @package _global_\n- a\n- b\n",
        "open": "# @package _global_\npairs: {count: 4\n",
        "no text": "\udcff",
        "reference": "# @package _global_\nevidence_tolerance: ${nowhere.at_all}\n",
        "type": "# @package _global_\npairs: 7\n",
        "resolver": "# @package _global_\nevidence_tolerance: ${no_such:1}\n",
        "itself": "# @package _global_\nevidence_tolerance: ${evidence_tolerance}\n",
        "object": "# @package _global_\npairs:\n  count: !!python/object/apply:os.getcwd []\n",
    }
    how = random.choice(("unknown", "unknown", "unknown", *texts))
    place = folder / "conf" / "experiment"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_bytes(texts[how].encode(errors="surrogateescape"))
    own = ("experiment=mine", f"hydra.searchpath=[file://{folder / 'conf'}]")
    return Line(
        "evaluate",
        own,
        (wrong, f"'{wrong.split('.')[-1]}'")
        if how == "unknown"
        else ("mine.yaml", "experiment/mine", "pairs", "evidence_tolerance", "nowhere", "no_such"),
    )


def nested(key: str, value: Any) -> str:
    """A dotted name as YAML."""
    *outer, last = key.split(".")
    return "".join(f"{'  ' * at}{name}:\n" for at, name in enumerate(outer)) + f"{'  ' * len(outer)}{last}: {value}\n"


def special(random: Random, shared: Path, folder: Path) -> Line:
    """A text with characters that the command line's grammar takes for its own: kept, or refused by name."""
    text = random.choice(
        (
            "epoch=3.ckpt",
            "a,b",
            "{x",
            "it's",
            "a(b",
            "${nowhere}",
            "a#b",
            "ü ñ",
            "a:b",
            "[x",
            '"x',
            "a\\b",
            "%s",
            "*",
            "a}b",
            "$HOME",
            "a\nb",
            "=",
            "a]",
            " x ",
        )
    )
    key = random.choice(("model.name", "model.checkpoint", "run_dir"))
    value = str(folder / text) if key == "run_dir" else text
    names = (key, "model.checkpoint" if "ckpt" in text else key)
    if key == "model.checkpoint":
        return Line("evaluate", (f"{key}={value}",), (*names, text.strip()))

    def right(_: str) -> str:
        place = folder / text if key == "run_dir" else folder / "out"
        places = [place] if place.is_dir() else [path.parent for path in folder.rglob("manifest.json")]
        if key == "run_dir":
            return "" if place.is_dir() or text == " x " else f"written to {places}, not {place}"
        found = json.loads((place / "manifest.json").read_text())["model"]
        return "" if found in (text, text.strip()) else f"the model is called {found!r}"

    return Line("evaluate", (f"{key}={value}",), names, right)


def place(random: Random, shared: Path, folder: Path) -> Line:
    """Where a run is written: at home for ~, and nowhere that cannot be written to."""
    (folder / "file").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    name = random.choice(("evaluate", "train", "submit"))
    more = ("verb=plan",) if name == "submit" else ()
    if random.random() < 0.5:
        text = random.choice(("~/x", "'~/x'", "~", "~/a/../x", "~nobody/x"))
        given = text.strip("'")
        expected = Path(os.environ["HOME"]) / given.removeprefix("~/") if given.startswith("~/") else None

        def right(_: str) -> str:
            if any(path.name.startswith("~") for path in (folder / "here").rglob("*")):
                return "a folder ~ was made"
            return "" if expected is not None and expected.resolve().is_dir() else f"nothing at {expected}"

        return Line(name, (*more, f"run_dir={text}"), ("run_dir", "~"), right)
    bad = random.choice(
        (
            "/proc/x",
            "/dev/null/x",
            str(folder / "file"),
            str(folder / "file" / "x"),
            "''",
            str(folder / "full"),
            "x" * 300,
            "/sys/x",
            "null",
            "7",
            "[a]",
        )
    )
    fine = bad == "7"
    return Line(name, (*more, f"run_dir={bad}"), ("run_dir", bad[:40]), (lambda _: "") if fine else None)


def at_odds(random: Random, shared: Path, folder: Path) -> Line:
    """Settings that are sound alone, and not together; or objects that cannot be."""
    lafam = "{_target_: sfam_bench.explainers.fam.LaFAM}"
    lines: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("evaluate", ("baseline=[blur]", "metric=[deletion]"), "baseline"),
        ("evaluate", ("target=margin",), "margin"),
        ("evaluate", ("+explainer.pair={_target_: sfam_bench.explainers.controls.Chance}",), "pair"),
        ("evaluate", ("+explainer.mine={_target_: sfam_bench.explainers.no.Such}",), "mine"),
        ("evaluate", ("+explainer.mine={_target_: os.system}",), "mine"),
        ("evaluate", ("+explainer.mine={_target_: sfam_bench.explainers.sfam.SFAM, nothing: 7}",), "nothing"),
        ("evaluate", ("+explainer.mine=7",), "mine"),
        ("evaluate", (f"+explainer.mine={lafam}",), "mine"),
        ("evaluate", ("+metric.mine={_target_: sfam_bench.explainers.sfam.SFAM}",), "mine"),
        ("evaluate", ("explainer=[sfam,sfam]",), "sfam"),
        ("evaluate", ("dataset=cub",), "dataset.root"),
        ("evaluate", ("dataset=sop", "dataset.root=/nowhere"), "/nowhere"),
        ("evaluate", ("dataset=cars196", f"dataset.root={shared}"), "dataset.root"),
        ("evaluate", ("model=checkpoint", f"model.path={shared / 'run' / 'config.yaml'}"), "config.yaml"),
        ("evaluate", ("model=checkpoint",), "model.path"),
        (
            "evaluate",
            (f"model.checkpoint={shared / 'train' / 'model.safetensors'}", "head=linear"),
            "model.safetensors",
        ),
        ("evaluate", (f"run_dir={shared / 'run'}",), "run"),
        ("evaluate", (f"run_dir={shared / 'run'}", "resume=true", "seed=5"), "seed"),
        ("evaluate", (f"run_dir={shared / 'run'}", "resume=true", "pairs.count=3"), "pairs.count"),
        ("evaluate", ("model=backbone", "model.trunk.name=resnet51", "model.image_size=64"), "resnet51"),
        ("evaluate", ("model=backbone", "model.trunk.source=nobody"), "nobody"),
        ("evaluate", ("model=backbone", "model.trunk.name=resnet18", "model.trunk.layer=layer9"), "layer9"),
        ("evaluate", ("dataset.size=64",), "image_size"),
        ("evaluate", ("pairs.kinds=[triplet]", "pairs.both_directions=true"), "triplet"),
        ("train", (f"run_dir={shared / 'train'}",), "train"),
        ("train", (f"run_dir={shared / 'train'}", "resume=true", "seed=9"), "seed"),
        ("train", (f"run_dir={shared / 'train'}", "resume=true", "train.lr=0.5"), "train.lr"),
        ("train", (f"run_dir={shared / 'train'}", "resume=true", "loss=triplet"), "loss"),
        ("train", ("train.batch_size=1000000",), "batch_size"),
        ("train", ("loss=null",), "loss"),
        ("train", ("validation=folds", "validation.measure=beauty"), "measure"),
        ("evaluate", ("--no-such-flag",), "--no-such-flag"),
        ("evaluate", ("seed",), "seed"),
        ("evaluate", ("=3",), "=3"),
        ("evaluate", ("--config-name=nope",), "nope"),
    )
    name, own, named = random.choice(lines)
    # sound enough to be run, if only it does not end in a traceback
    free = named in ("image_size", "triplet", "mine", "sfam") and (
        "dataset.size" in own[0] or "both" in own[-1] or "LaFAM" in own[0] or own[0] == "explainer=[sfam,sfam]"
    )
    return Line(name, own, (named,), (lambda _: "") if free else None)


WAYS: tuple[Callable[[Random, Path, Path], Line], ...] = (typo, special, at_odds, place, in_file, at_odds, typo)
