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
from sfam_bench.runs.joined import join_runs
from sfam_bench.runs.matrix import FACTS, Matrix, area_errors
from sfam_bench.runs.reader import Run, read_run
from sfam_bench.statistics import plain_means, summarise


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

    def join(self, names: Sequence[str], title: str) -> "Summed":
        """Evaluations of different methods or pairs as one run of this title; UserError if they do not fit together."""
        parts = [read_run(self._folder(name)) for name in names]
        return Summed.of(with_box_accuracy(join_runs(parts)), title)

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
    """A run with its means; `checks` are the values that check the measurement, `catalogue` has its metrics."""

    name: str
    run: Run
    checks: Matrix
    catalogue: Catalogue

    @classmethod
    def of(cls, run: Run, name: str = "", others: Sequence[Mapping[str, Any]] = ()) -> "Summed":
        """Split a run; the manifests of `others` describe metrics that its own does not."""
        catalogue = Catalogue.of(run.manifest, *others)
        checks = run.matrix.select(lambda metric, _: catalogue.is_check(metric))
        scores = run.matrix.select(lambda metric, _: not catalogue.is_check(metric))
        return cls(name, replace(run, matrix=scores), checks, catalogue)

    @cached_property
    def errors(self) -> np.ndarray:
        """The integration errors of its curves."""
        return area_errors(self.checks)

    @cached_property
    def means(self) -> pd.DataFrame:
        """statistics.summarise of its values, costs below, and `blind` of each row's explainer."""
        return self._summarise(self.run.matrix, cost_rows(self.run))

    @property
    def plain_means(self) -> pd.DataFrame:
        """statistics.plain_means of its values."""
        return plain_means(self.run.matrix, self.catalogue.facts)

    @property
    def metrics(self) -> list[str]:
        """The metrics of explainers, and their costs, in order."""
        costs = cost_rows(self.run)
        own = (metric for metric, explainer in self.run.matrix.columns if explainer != FACTS)
        return [*dict.fromkeys([*own, *(costs["metric"] if len(costs) else ())])]

    def among(self, metrics: Sequence[str], explainers: Sequence[str] = ()) -> pd.DataFrame:
        """The means of these metrics, with their chance levels, and best and tied among these explainers.

        If no explainer is given, a part of all means, in less time.
        """
        if absent := [name for name in explainers if name not in self.run.matrix.explainers]:
            raise UserError(f"the stored run {self.name} has no explainer {absent[0]}: evaluate that one too")
        chosen, costs = {*(explainers or self.run.matrix.explainers), FACTS}, cost_rows(self.run)
        costs = costs[costs["explainer"].isin(chosen) & costs["metric"].isin(metrics)] if len(costs) else costs
        wanted = {*metrics, *map(self.catalogue.chance, metrics)}
        return self._summarise(
            self.run.matrix.select(lambda metric, explainer: metric in wanted and explainer in chosen), costs
        )

    def _summarise(self, matrix: Matrix, costs: pd.DataFrame) -> pd.DataFrame:
        values = [summarise(matrix, self.catalogue.facts)] if matrix.columns else []
        whole = pd.concat([*values, costs], ignore_index=True)
        return mark_blind(whole, self.run.blind)

    def behind(self, means: pd.DataFrame) -> Matrix:
        """The values behind these rows of the means."""
        metrics, explainers = {*means["metric"]}, {*means["explainer"]}
        return self.run.matrix.select(lambda metric, explainer: metric in metrics and explainer in explainers)
