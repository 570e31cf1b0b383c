"""Stored runs by name, each read and summed up once, however many tables and figures ask for it."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from sfam_bench.errors import UserError
from sfam_bench.report.box_accuracy import with_box_accuracy
from sfam_bench.report.cost import cost_rows
from sfam_bench.report.models import Training, read_training
from sfam_bench.report.tables import mark
from sfam_bench.statistics import summary
from sfam_bench.store import Run, read_run


@dataclass(frozen=True)
class Stored:
    """The run folders below `root`, of evaluations and of trainings, by their folder names."""

    root: Path
    _read: dict[str, "Summed"] = field(default_factory=dict, repr=False)

    def run(self, name: str) -> "Summed":
        """An evaluation; UserError where there is none of this name."""
        if name not in self._read:
            self._read[name] = Summed(name, with_box_accuracy(read_run(self._folder(name))))
        return self._read[name]

    def training(self, name: str) -> Training:
        """A training; UserError where there is none of this name."""
        return read_training(self._folder(name))

    def _folder(self, name: str) -> Path:
        folder = Path(self.root) / name
        if Path(name).name != name or not folder.is_dir():
            there = ", ".join(sorted(path.name for path in Path(self.root).glob("*/"))) or "none"
            raise UserError(f"there is no stored run '{name}' in {self.root}: it has {there}")
        return folder


@dataclass(frozen=True)
class Summed:
    """A run with its means."""

    name: str
    run: Run

    @cached_property
    def means(self) -> pd.DataFrame:
        """statistics.summary of its records, costs below, and `blind` of each row's explainer."""
        means = summary(self.run.records, self.run.pairs, self.run.manifest.get("metrics") or {})
        whole = pd.concat([means, cost_rows(self.run)], ignore_index=True)
        return mark(whole, self.run.manifest.get("blind") or ())
