"""Stored runs by name, each read and summarised once, for any number of tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

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
            whole = with_box_accuracy(read_run(self._folder(name)))
            check = Catalogue.of(whole.manifest).checks(whole.records)  # these judge the protocol, no explainer
            run = replace(whole, records=whole.records[~check])
            self._read[name] = Summed(name, run, area_errors(whole.records[check]))
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
    """A run with its means; `errors` are the integration errors of its curves."""

    name: str
    run: Run
    errors: np.ndarray

    @cached_property
    def catalogue(self) -> Catalogue:
        """The catalogue of its metrics."""
        return Catalogue.of(self.run.manifest)

    @cached_property
    def means(self) -> pd.DataFrame:
        """statistics.summary of its records, costs below, and `blind` of each row's explainer."""
        return self._summed(self.run.records)

    def among(self, explainers: Sequence[str]) -> pd.DataFrame:
        """The means of these explainers, with best and tied among them; of all if none is given."""
        if not explainers:
            return self.means
        there = self.run.records["explainer"].unique()
        if absent := [name for name in explainers if name not in there]:
            raise UserError(f"the stored run {self.name} has no explainer {absent[0]}: evaluate that one too")
        return self._summed(self.run.records[self.run.records["explainer"].isin([*explainers, FACTS])])

    def _summed(self, records: pd.DataFrame) -> pd.DataFrame:
        costs = cost_rows(self.run)
        costs = costs[costs["explainer"].isin(records["explainer"])] if len(costs) else costs
        whole = pd.concat([summarise(records, self.run.pairs, self.catalogue.facts), costs], ignore_index=True)
        return mark_blind(whole, self.run.manifest.get("blind") or ())

    def kept(self, means: pd.DataFrame) -> pd.DataFrame:
        """The records behind these rows of the means."""
        own = self.run.records
        return own[own["metric"].isin(means["metric"]) & own["explainer"].isin(means["explainer"])]
