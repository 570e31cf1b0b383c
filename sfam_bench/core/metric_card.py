"""What a metric says about itself: for the table, the page of cards, and the contract tests that hold it to it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, TypeAlias

Limits: TypeAlias = tuple[float | int, float | int]  # beartype takes no whole number for a float
NEEDS: Mapping[str, str] = {
    **{"foreground": "masks or boxes", "box": "boxes", "keypoints": "keypoints", "negative": "negatives"},
    **{"shared": "parts of known state", "unshared": "parts of known state"},
    **{"same_class": "other references", "other_class": "other references"},
}


@dataclass(frozen=True)
class MetricCard:
    """What neither the docstring nor the settings of a metric say.

    range: where its values lie, both ends included; None where nobody has said.
    needs: what it needs beyond a map and what its `needs` name, such as a "gallery".
    remakes: how many further maps it has the method make for each map.
    passes: forward passes a map that it takes outside of its probes.
    degenerate: where the value says nothing, or something other than it seems to.
    """

    range: Limits | None = None
    needs: tuple[str, ...] = ()
    remakes: int = 0
    passes: float | int = 0
    degenerate: tuple[str, ...] = ()


ANY = (-inf, inf)
SHARE = MetricCard(range=(0, 1))


def metric_card(metric: Any) -> MetricCard:
    """The card of a metric, which may hang on its settings; one that has none says at most its `range`."""
    card = getattr(metric, "card", None)
    return card if isinstance(card, MetricCard) else MetricCard(range=getattr(metric, "range", None))


def measures_and_source(metric: type) -> tuple[str, str]:
    """The docstring's first line, "what it measures; source.", in its two parts; the source is nothing where absent."""
    measures, _, source = (metric.__doc__ or "").split("\n", 1)[0].rpartition("; ")
    return (measures, source.removesuffix(".")) if measures else (source.removesuffix("."), "")


def passes_a_map(metric: Any, pixels: int) -> float:
    """The forward passes that a metric asks of each map, on average over pairs."""
    return float(metric_card(metric).passes) + sum(
        metric.share * probe.count(pixels) for probe in getattr(metric, "probes", ())
    )


def needed(metric: Any) -> list[str]:
    """What a data set must have, in words, each once."""
    return list(dict.fromkeys([*(NEEDS.get(need, need) for need in metric.needs), *metric_card(metric).needs]))


def settings(metric: Any) -> dict[str, str]:
    """The fields of a metric and their values, as a reader would write them."""
    named = (field.name for field in fields(metric) if field.init and field.repr)
    return {name: _shown(getattr(metric, name)) for name in named if name not in ("needs", "higher_is_better")}


def _shown(value: Any) -> str:
    named = getattr(value, "name", value)  # a baseline
    return "null" if named is None else str(named).lower() if isinstance(named, bool) else str(named)
