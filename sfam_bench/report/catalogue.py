"""The metrics of a report, as the manifests of its runs describe them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sfam_bench.core.metric_card import COMPARED, GROUPS, HEADLINES, Group
from sfam_bench.report.names import direction_arrow
from sfam_bench.report.tables.cost import COSTS


@dataclass(frozen=True)
class Catalogue:
    """The facts of each metric (core.metric_card.metric_facts) by key; an unknown metric's label is its key."""

    facts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, *manifests: Mapping[str, Any]) -> "Catalogue":
        """The metrics of some runs, by the first description of each, and the costs that reports add."""
        found: dict[str, Mapping[str, Any]] = {}
        for manifest in manifests:
            for metric, facts in (manifest.get("metrics") or {}).items():
                found.setdefault(metric, facts)
        return cls({**found, **COSTS})

    def fact(self, metric: str, name: str) -> Any:
        """One fact of a metric; None if absent."""
        return self.facts.get(metric, {}).get(name)

    def group(self, metric: str) -> Group:
        """The title of its table."""
        found = self.fact(metric, "group")
        return found if found in GROUPS else "Others"

    def label(self, metric: str) -> str:
        """The label, with the key if another metric has the same label."""
        found = str(self.fact(metric, "label") or metric)
        return f"{found} [{metric}]" if self._labels[found] > 1 else found

    @cached_property
    def _labels(self) -> Counter[str]:
        return Counter(str(facts.get("label")) for facts in self.facts.values())

    def meaning(self, metric: str) -> str:
        """What it measures, in one sentence."""
        return str(self.fact(metric, "meaning") or "")

    def family(self, metric: str) -> str:
        """The name shared by variants with another baseline, step count or threshold."""
        return str(self.fact(metric, "family") or metric)

    def chance(self, metric: str) -> str | None:
        """The metric that is its chance level."""
        return self.fact(metric, "chance")

    def direction(self, metric: str) -> bool | None:
        """Whether higher is better; None if neither is."""
        return self.fact(metric, "higher_is_better")

    def title(self, metric: str) -> str:
        """The label with an arrow towards better values."""
        return self.label(metric) + direction_arrow(self.direction(metric))

    def is_compared(self, metric: str) -> bool:
        """Whether it measures the quality of a map."""
        return self.group(metric) in COMPARED

    def scores(self, metrics: Iterable[str]) -> list[str]:
        """The metrics whose role is to score explainers."""
        return [metric for metric in metrics if (self.fact(metric, "role") or "score") == "score"]

    def is_check(self, metric: str) -> bool:
        """Whether it checks the measurement and does not score an explainer."""
        return self.fact(metric, "role") == "check"

    def sort(self, metrics: Iterable[str]) -> list[str]:
        """In reading order: by group, then as they were evaluated."""
        places = {metric: place for place, metric in enumerate(self.facts)}
        return sorted(metrics, key=lambda metric: (GROUPS.index(self.group(metric)), places.get(metric, len(places))))

    def first(self, families: Sequence[str], metrics: Iterable[str]) -> list[str]:
        """The first score of each family, in reading order."""
        scores = self.scores(self.sort(metrics))
        found = [next((metric for metric in scores if self.family(metric) == family), None) for family in families]
        return [metric for metric in found if metric]

    def headlines(self, metrics: Iterable[str]) -> list[str]:
        """The metrics of short tables."""
        return self.first(HEADLINES, metrics)
