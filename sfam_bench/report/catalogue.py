"""The metrics of a report, as the manifests of its runs describe them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from sfam_bench.core.metric_card import COMPARED, GROUPS, HEADLINES, Group
from sfam_bench.report.names import direction_arrow
from sfam_bench.report.tables.cost import COSTS


@dataclass(frozen=True)
class Catalogue:
    """Of each metric by its key what core.metric_card.metric_facts says; a metric that is not known has its key."""

    facts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, *manifests: Mapping[str, Any]) -> "Catalogue":
        """The metrics of runs, the first description of each, and the costs that reports add."""
        found: dict[str, Mapping[str, Any]] = {}
        for manifest in manifests:
            for metric, facts in (manifest.get("metrics") or {}).items():
                found.setdefault(metric, facts)
        return cls({**found, **COSTS})

    def said(self, metric: str, name: str) -> Any:
        """One entry of a metric's description; None where there is none."""
        return self.facts.get(metric, {}).get(name)

    def group(self, metric: str) -> Group:
        """The title of its table."""
        found = self.said(metric, "group")
        return found if found in GROUPS else "Others"

    def label(self, metric: str) -> str:
        """Its name for readers, with the key where another metric has the same."""
        found = str(self.said(metric, "label") or metric)
        return f"{found} [{metric}]" if self._labels[found] > 1 else found

    @cached_property
    def _labels(self) -> Counter[str]:
        return Counter(str(facts.get("label")) for facts in self.facts.values())

    def meaning(self, metric: str) -> str:
        """What it measures, in one sentence."""
        return str(self.said(metric, "meaning") or "")

    def family(self, metric: str) -> str:
        """What it shares with metrics of another baseline, step count or threshold."""
        return str(self.said(metric, "family") or metric)

    def chance(self, metric: str) -> str | None:
        """The metric that holds its chance level."""
        return self.said(metric, "chance")

    def direction(self, metric: str) -> bool | None:
        """Whether higher is better; None where neither is."""
        return self.said(metric, "higher_is_better")

    def title(self, metric: str) -> str:
        """Its label with the arrow of its better side."""
        return self.label(metric) + direction_arrow(self.direction(metric))

    def is_compared(self, metric: str) -> bool:
        """Whether it says how faithful a map is."""
        return self.group(metric) in COMPARED

    def with_role(self, role: str, metrics: Iterable[str]) -> list[str]:
        """Those of the metrics that have this role."""
        return [metric for metric in metrics if (self.said(metric, "role") or "score") == role]

    def checks(self, records: pd.DataFrame) -> pd.Series:
        """Which records check the measurement, and say nothing of an explainer."""
        return records["metric"].isin(self.with_role("check", self.facts))

    def sort(self, metrics: Iterable[str]) -> list[str]:
        """In reading order: by group, then as they were evaluated."""
        places = {metric: place for place, metric in enumerate(self.facts)}
        return sorted(metrics, key=lambda metric: (GROUPS.index(self.group(metric)), places.get(metric, len(places))))

    def first(self, families: Sequence[str], metrics: Iterable[str]) -> list[str]:
        """Of each family the first score, in reading order."""
        scores = self.with_role("score", self.sort(metrics))
        found = [next((metric for metric in scores if self.family(metric) == family), None) for family in families]
        return [metric for metric in found if metric]

    def headlines(self, metrics: Iterable[str]) -> list[str]:
        """The metrics that stand where there is no room for all."""
        return self.first(HEADLINES, metrics)
