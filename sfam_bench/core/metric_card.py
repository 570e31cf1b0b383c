"""The description of a metric, for tables, the metrics page, and the contract tests that check it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal, TypeAlias, get_args

from sfam_bench.core.errors import UserError

Group: TypeAlias = Literal[  # titles of tables, in reading order
    "Metrics that depend on the pair",
    "Faithfulness",
    "Localisation",
    "Heat by part",
    "Sanity and robustness",
    "Complexity and completeness",
    "Cost",
    "Others",
]
Role: TypeAlias = Literal["score", "chance", "check"]
GROUPS: tuple[Group, ...] = get_args(Group)
ROLES: tuple[Role, ...] = get_args(Role)
COMPARED = GROUPS[:3]  # groups whose metrics measure how faithful a map is
HEADLINES = (  # families whose first metric is shown where there is no room for all metrics
    *("causal_agreement", "selectivity", "part_agreement", "margin_insertion_minus_deletion"),
    *("insertion_minus_deletion", "deletion", "energy_pointing_game_foreground"),
)
SIGNED = ("selectivity", "insertion_minus_deletion")  # families whose zero is chance, pair-dependent ones first

Limits: TypeAlias = tuple[float | int, float | int]  # beartype does not accept an int as a float
NEEDS: Mapping[str, str] = {
    **{"foreground": "masks or boxes", "box": "boxes", "keypoints": "keypoints", "negative": "negatives"},
    **dict.fromkeys(("shared", "unshared"), "parts known to be shared or not"),
    "distinguishing": "triplets of parts known to be shared or not",
    **{"background": "a mask of the background", "redraws": "parts that can be redrawn"},
    **{"same_class": "other references", "other_class": "other references"},
}


@dataclass(frozen=True)
class MetricCard:
    """Properties of a metric beyond its docstring and settings.

    range: lowest and highest possible value, both included; None if unknown.
    needs: what it needs beyond a map and the entries of its `needs`, such as a "gallery".
    remakes: how many further maps of the method it computes for each map.
    passes: forward passes for each map in addition to those of its probes.
    degenerate: cases in which the value is uninformative or misleading.
    group: the title of its table.
    label: its name in tables and figures; empty: the key.
    meaning: what it measures, in one sentence; empty: the docstring's first line.
    family: shared by metrics that differ only in baseline, steps or threshold; empty: the key.
    baseline, steps: within its family, the names of the replacement pixels and of the sampling of curves.
    threshold: within its family, the share of the map's range or maximum above which pixels count.
    role: a "score" of the map, the "chance" level of a score, or a "check" of the measurement.
    of: for role="chance", the key of its score, unless that is a metric of the same class and settings.
    """

    range: Limits | None = None
    needs: tuple[str, ...] = ()
    remakes: int = 0
    passes: float | int = 0
    degenerate: tuple[str, ...] = ()
    group: Group = "Others"
    label: str = ""
    meaning: str = ""
    family: str = ""
    baseline: str | None = None
    steps: str | None = None
    threshold: float | int | None = None
    role: Role = "score"
    of: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("group", GROUPS), ("role", ROLES)):
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"MetricCard.{name} is {value!r}: choose one of {', '.join(choices)}")


ENTRIES = ("group", "label", "meaning", "family", "baseline", "steps", "threshold", "role")
ANY: Limits = (-inf, inf)
SHARE: Limits = (0, 1)
VALUES = {"chance": "chance level", "ratio": "over chance"}  # labels of metrics with a field `value`


def label(name: str, *notes: str) -> str:
    """A name with notes in brackets, as "deletion AUC (mean colour)"; empty notes are omitted."""
    joined = ", ".join(note.replace("_", " ") for note in notes if note)
    return f"{name} ({joined})" if joined else name


def role(value: str) -> Role:
    """The role of a metric with a field `value`."""
    return "chance" if value == "chance" else "score"


def metric_card(metric: Any) -> MetricCard:
    """The card of a metric, which may depend on its settings; without one, a card with its `range` if it has that."""
    card = getattr(metric, "card", None)
    return card if isinstance(card, MetricCard) else MetricCard(range=getattr(metric, "range", None))


@dataclass(frozen=True)
class Described:
    """A metric that has only a card, for values that are not computed from one map."""

    card: MetricCard
    higher_is_better: bool | None = None


def metric_facts(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The card entries and the needs of each metric by its key, in JSON types, for the manifest of a run."""
    cards = {key: metric_card(metric) for key, metric in metrics.items()}
    levels = {key: metrics[key] for key, card in cards.items() if card.role == "chance"}
    found = {}
    for key, metric in metrics.items():
        card = cards[key]
        defaults = {"label": key, "family": key, "meaning": measures_and_source(type(metric))[0]}
        facts = {name: getattr(card, name) or defaults.get(name, getattr(card, name)) for name in ENTRIES}
        own = [name for name, level in levels.items() if cards[name].of == key or _is_level(level, metric)]
        needs = list_needs(metric) if hasattr(metric, "needs") else []
        found[key] = {
            **{"higher_is_better": metric.higher_is_better, **facts},
            **({"chance": own[0]} if own else {}),
            **({"needs": needs} if needs else {}),
        }
    return found


def _is_level(level: Any, metric: Any) -> bool:
    """Whether `level` is the chance level of `metric`: same class and settings, but value=chance, not the default."""
    if type(level) is not type(metric):
        return False
    own = [field for field in fields(metric) if field.name != "higher_is_better"]
    differing = [field for field in own if getattr(level, field.name) != getattr(metric, field.name)]
    return [field.name for field in differing] == ["value"] and metric.value == differing[0].default


def measures_and_source(metric: type) -> tuple[str, str]:
    """The two parts of the docstring's first line, "what it measures; source."; the source is empty if absent."""
    measures, _, source = (metric.__doc__ or "").split("\n", 1)[0].rpartition("; ")
    return (measures, source.removesuffix(".")) if measures else (source.removesuffix("."), "")


def passes_a_map(metric: Any, pixels: int) -> float:
    """The forward passes that a metric needs for each map, on average over pairs."""
    return float(metric_card(metric).passes) + sum(
        metric.share * probe.count(pixels) for probe in getattr(metric, "probes", ())
    )


def list_needs(metric: Any) -> list[str]:
    """What a data set must have for a metric, in words, without duplicates."""
    return list(dict.fromkeys([*(NEEDS.get(need, need) for need in metric.needs), *metric_card(metric).needs]))


def settings(metric: Any) -> dict[str, str]:
    """The fields of a metric and their values, written as in YAML."""
    names = (field.name for field in fields(metric) if field.init and field.repr)
    values = {name: getattr(metric, name) for name in names if name not in ("needs", "higher_is_better")}
    return {name: _format_value(value) for name, value in values.items()}


def _format_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(getattr(value, "name", value))  # a baseline has a name
