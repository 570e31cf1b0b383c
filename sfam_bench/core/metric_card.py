"""What a metric says about itself: for tables, the page of cards, and the contract tests that hold it to it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal, TypeAlias, get_args

from sfam_bench.core.errors import UserError

Group: TypeAlias = Literal[  # titles of tables, in reading order
    "Metrics that see the pair",
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
COMPARED = GROUPS[:3]  # whose metrics say how faithful a map is
HEADLINES = (  # families; of each the first metric stands where there is no room for all
    *("selectivity", "part_agreement", "margin_insertion_minus_deletion"),
    *("insertion_minus_deletion", "deletion", "energy_pointing_game_foreground"),
)
SIGNED = ("selectivity", "insertion_minus_deletion")  # families whose zero is chance, what sees the pair first

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
    group: the title of its table.
    label: its name in tables and figures; the key where empty.
    meaning: what it measures, in one sentence; the docstring's first line where empty.
    family: shared by metrics that differ in baseline, steps or threshold alone; the key where empty.
    baseline, steps: of its family, names of what deleted pixels become and of where curves are sampled.
    threshold: of its family, the share of the map's range or maximum above which pixels count.
    role: a score of the map, the level of `chance` of one, or a `check` of the measurement.
    of: for role="chance", the key of its score, where that is no metric of the same class and settings.
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


SAID = ("group", "label", "meaning", "family", "baseline", "steps", "threshold", "role")
ANY: Limits = (-inf, inf)
SHARE: Limits = (0, 1)
VALUES = {"chance": "chance level", "ratio": "over chance"}  # of metrics with a field `value`, as labels say them


def label(name: str, *notes: str) -> str:
    """A name with notes in brackets, as "deletion AUC (mean colour)"; empty notes are left out."""
    said = ", ".join(note.replace("_", " ") for note in notes if note)
    return f"{name} ({said})" if said else name


def role(value: str) -> Role:
    """The role of a metric with a field `value`."""
    return "chance" if value == "chance" else "score"


def metric_card(metric: Any) -> MetricCard:
    """The card of a metric, which may depend on its settings; one that has none says at most its `range`."""
    card = getattr(metric, "card", None)
    return card if isinstance(card, MetricCard) else MetricCard(range=getattr(metric, "range", None))


@dataclass(frozen=True)
class Described:
    """A metric by its card alone, for values that no call on one map gives."""

    card: MetricCard
    higher_is_better: bool | None = None


def metric_facts(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What reports need to know of each metric, by its key, in plain types: for the manifest of a run."""
    cards = {key: metric_card(metric) for key, metric in metrics.items()}
    levels = {key: metrics[key] for key, card in cards.items() if card.role == "chance"}
    found = {}
    for key, metric in metrics.items():
        card = cards[key]
        defaults = {"label": key, "family": key, "meaning": measures_and_source(type(metric))[0]}
        said = {name: getattr(card, name) or defaults.get(name, getattr(card, name)) for name in SAID}
        mine = [level for level, made in levels.items() if cards[level].of == key or _is_level(made, metric)]
        found[key] = {"higher_is_better": metric.higher_is_better, **said, **({"chance": mine[0]} if mine else {})}
    return found


def _is_level(level: Any, metric: Any) -> bool:
    """Whether `level` is the chance level of `metric`: its class and settings, with value=chance for the default."""
    if type(level) is not type(metric):
        return False
    own = [field for field in fields(metric) if field.name != "higher_is_better"]
    differing = [field for field in own if getattr(level, field.name) != getattr(metric, field.name)]
    return [field.name for field in differing] == ["value"] and metric.value == differing[0].default


def measures_and_source(metric: type) -> tuple[str, str]:
    """The docstring's first line, "what it measures; source.", in its two parts; the source is nothing where absent."""
    measures, _, source = (metric.__doc__ or "").split("\n", 1)[0].rpartition("; ")
    return (measures, source.removesuffix(".")) if measures else (source.removesuffix("."), "")


def passes_a_map(metric: Any, pixels: int) -> float:
    """The forward passes that a metric asks of each map, on average over pairs."""
    return float(metric_card(metric).passes) + sum(
        metric.share * probe.count(pixels) for probe in getattr(metric, "probes", ())
    )


def list_needs(metric: Any) -> list[str]:
    """What a data set must have, in words, each once."""
    return list(dict.fromkeys([*(NEEDS.get(need, need) for need in metric.needs), *metric_card(metric).needs]))


def settings(metric: Any) -> dict[str, str]:
    """The fields of a metric and their values, as a reader would write them."""
    named = (field.name for field in fields(metric) if field.init and field.repr)
    return {name: _show_value(getattr(metric, name)) for name in named if name not in ("needs", "higher_is_better")}


def _show_value(value: Any) -> str:
    named = getattr(value, "name", value)  # a baseline
    return "null" if named is None else str(named).lower() if isinstance(named, bool) else str(named)
