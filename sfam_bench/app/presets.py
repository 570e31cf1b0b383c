"""The training presets of conf/, read without Hydra."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sfam_bench.core.conf import conf_folder, read_yaml
from sfam_bench.core.errors import UserError

BACKBONES = {  # channels, and the licence of the weights; of ImageNet itself the terms are non-commercial research
    "resnet50": (2048, "BSD-3-Clause"),
    "bn_inception": (1024, "not stated"),
    "vit_s16": (384, "Apache-2.0"),
}


@dataclass(frozen=True)
class Preset:
    """One training preset, by its name in experiment=train/NAME, with the published figure of a similar training.

    setting: where the published one differs.
    licence: of the weights from which it starts.
    """

    name: str
    dataset: str
    loss: str
    backbone: str
    dims: int
    recall_at_1: float | None
    source: str
    mark: str
    setting: str
    licence: str


def read_presets(conf: Path | None = None) -> list[Preset]:
    """All presets, sorted by name."""
    root = conf or conf_folder()
    files = sorted((root / "experiment" / "train").glob("*.yaml"))
    if not files:
        raise UserError(f"no presets in {root / 'experiment' / 'train'}: install the package again, or use a checkout")
    known = read_published(root)
    return [_preset(file, root, known.get(file.stem, {})) for file in files]


def read_published(conf: Path | None = None) -> dict[str, dict[str, Any]]:
    """Published figures by preset name: recall_at_1, source, mark, setting.

    `mark` is verified or recalled; `setting` says where the published training differs. UserError where the table of
    conf/ cannot be read.
    """
    rows = _read_rows((conf or conf_folder()) / "published.csv", preset=str, recall_at_1=float)
    return {row.pop("preset"): row for row in rows}


def read_published_few_shot() -> dict[tuple[str, int], dict[str, Any]]:
    """Published accuracies by preset of experiment=few_shot/NAME and shots: accuracy, interval, source, mark, setting.

    `interval` is half the 95 % interval over episodes, None where it was not found. UserError where the table of conf/
    cannot be read.
    """
    file = conf_folder() / "published_few_shot.csv"
    rows = _read_rows(file, preset=str, shots=int, accuracy=float, interval=lambda text: float(text) if text else None)
    return {(row.pop("preset"), row.pop("shots")): row for row in rows}


def _read_rows(file: Path, **columns: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The rows of a CSV file of conf/, whose named columns are parsed; UserError where it cannot be read."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [
                {**row, **{name: parse(row[name]) for name, parse in columns.items()}} for row in csv.DictReader(lines)
            ]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"cannot read {file} ({error}): restore it, or install again") from error


def _preset(file: Path, conf: Path, reported: Mapping[str, Any]) -> Preset:
    body = read_yaml(file)
    entries = [entry for entry in body.get("defaults", []) if isinstance(entry, dict)]
    chosen = {key.removeprefix("override /"): choice for entry in entries for key, choice in entry.items()}
    try:
        channels, licence = BACKBONES[chosen["model"]]
        head = read_yaml(conf / "head" / f"{chosen['head']}.yaml") if "head" in chosen else {}
        dims = (head | body.get("head", {})).get("dims", channels)
        named = {name: chosen[name] for name in ("dataset", "loss")}
    except KeyError as error:
        raise UserError(f"{file}: {error} is unknown: a preset names data set, model, loss") from error
    texts = {name: reported.get(name, "") for name in ("source", "mark", "setting")}
    figure = reported.get("recall_at_1")
    return Preset(file.stem, **named, backbone=chosen["model"], dims=dims, recall_at_1=figure, **texts, licence=licence)


def format_table(listed: Sequence[Preset]) -> str:
    """The presets in aligned columns; the long published setting is only in --json."""
    heads = [field.name for field in fields(Preset) if field.name != "setting"]
    cells = [[_cell(getattr(preset, head)) for head in heads] for preset in listed]
    lines = [[head.replace("_at_", "@") for head in heads], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(value: str | int | float | None) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value in (None, "") else str(value)
