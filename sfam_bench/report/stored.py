"""Stored runs by name, each read and summarised once, for any number of tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables.box_accuracy import with_box_accuracy
from sfam_bench.report.tables.cost import cost_rows
from sfam_bench.report.tables.models import Training, read_training
from sfam_bench.report.tables.tables import mark_blind
from sfam_bench.runs.reader import Run, read_run
from sfam_bench.statistics import FACTS, area_errors, summarise


@dataclass(frozen=True)
class Stored:
    """The run folders below `root`, of evaluations and of trainings, by their folder names."""

    root: Path
    _read: dict[str, "Summed"] = field(default_factory=dict, repr=False)

    def run(self, name: str) -> "Summed":
        """The evaluation of this name; UserError if absent."""
        if name not in self._read:
            self._read[name] = Summed.of(with_box_accuracy(read_run(self._folder(name))), name)
        return self._read[name]

    def training(self, name: str) -> Training:
        """The training of this name; UserError if absent."""
        return read_training(self._folder(name))

    def _folder(self, name: str) -> Path:
        folder = Path(self.root) / name
        if Path(name).name != name or not folder.is_dir():
            there = ", ".join(sorted(path.name for path in Path(self.root).glob("*/"))) or "none"
            raise UserError(f"no stored run '{name}' in {self.root}: it has {there}")
        return folder


@dataclass(frozen=True)
class Summed:
    """A run with its means; `checks` are the records that check the measurement, `catalogue` has its metrics."""

    name: str
    run: Run
    checks: pd.DataFrame
    catalogue: Catalogue

    @classmethod
    def of(cls, run: Run, name: str = "", others: Sequence[Mapping[str, Any]] = ()) -> "Summed":
        """Split a run; the manifests of `others` describe metrics that its own does not."""
        catalogue = Catalogue.of(run.manifest, *others)
        check = catalogue.checks(run.records)
        return cls(name, replace(run, records=run.records[~check]), run.records[check], catalogue)

    @cached_property
    def errors(self) -> np.ndarray:
        """The integration errors of its curves."""
        return area_errors(self.checks)

    @cached_property
    def means(self) -> pd.DataFrame:
        """statistics.summary of its records, costs below, and `blind` of each row's explainer."""
        return self._summarise(self.run.records, cost_rows(self.run))

    def among(self, explainers: Sequence[str]) -> pd.DataFrame:
        """The means of these explainers, with best and tied among them; of all if none is given."""
        if not explainers:
            return self.means
        there = self.run.records["explainer"].unique()
        if absent := [name for name in explainers if name not in there]:
            raise UserError(f"the stored run {self.name} has no explainer {absent[0]}: evaluate that one too")
        records, costs = (
            frame[frame["explainer"].isin([*explainers, FACTS])] if len(frame) else frame
            for frame in (self.run.records, cost_rows(self.run))
        )
        return self._summarise(records, costs)

    def _summarise(self, records: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
        whole = pd.concat([summarise(records, self.run.pairs, self.catalogue.facts), costs], ignore_index=True)
        return mark_blind(whole, self.run.manifest.get("blind") or ())

    def kept(self, means: pd.DataFrame) -> pd.DataFrame:
        """The records behind these rows of the means."""
        own = self.run.records
        return own[own["metric"].isin(means["metric"]) & own["explainer"].isin(means["explainer"])]
