"""The table of metrics, and a card for each, out of docstrings, cards and settings."""

from collections.abc import Mapping
from math import inf
from typing import Any

import pandas as pd

from sfam_bench.core.method_card import remarks
from sfam_bench.core.metric_card import (
    Limits,
    list_needs,
    measures_and_source,
    metric_card,
    metric_facts,
    passes_a_map,
    settings,
)
from sfam_bench.report.tables.methods import definition_lines, definitions, field_lines, markdown_table, plain_text

DIRECTIONS = {True: "higher", False: "lower", None: "--"}


def metric_table(metrics: Mapping[str, Any], pixels: int) -> pd.DataFrame:
    """A row for each metric, by its label; passes are for images of `pixels` pixels."""
    rows, facts = [], metric_facts(metrics)
    for name, metric in metrics.items():
        measures, source = measures_and_source(type(metric))
        rows.append(
            {
                "metric": name,
                "label": facts[name]["label"],
                "table": facts[name]["group"],
                "better": DIRECTIONS[metric.higher_is_better],
                "range": format_interval(metric_card(metric).range),
                "needs": ", ".join(list_needs(metric)),
                "passes": f"{passes_a_map(metric, pixels):.3g}",
                "maps": str(metric_card(metric).remakes),
                "source": source,
                "measures": measures,
            }
        )
    return pd.DataFrame(rows)


def metrics_page(metrics: Mapping[str, Any], pixels: int) -> str:
    """The table and the cards as Markdown."""
    table = metric_table(metrics, pixels)
    kinds: dict[type, list[str]] = {}
    for name, metric in metrics.items():
        kinds.setdefault(type(metric), []).append(name)
    anchors = {name: title(kind).lower().replace(" ", "-") for kind, names in kinds.items() for name in names}
    side = round(pixels**0.5)
    head = [
        "# The metrics",
        "",
        "This page is written by `make metrics` from the docstring, the card and the settings of each metric.",
        "",
        "- *label*: its name in tables and figures; *table*: the title of its table.",
        "- *better*: whether higher or lower values are better; -- where neither is (a chance level, a check of the "
        "measurement).",
        f"- *passes*: perturbed images for each map, on average over pairs, at {side} x {side} pixels. Methods with "
        "the same map and metrics with the same perturbed images share them.",
        "- *maps*: how many more maps a method computes for each map.",
        "",
        "Symbols: $m$ is the map at the size of the image, scaled to a largest magnitude of 1, and $m^+$ its positive "
        "part; $i$ a pixel; $R$ the region; $s$ the score of the pair, $s_{\\text{full}}$ that of the whole query and "
        "$s_{\\text{base}}$ that of the baseline image.",
        "",
        "An undefined value is NaN with a reason. A metric whose regions a data set does not have is skipped and "
        "reported.",
        "",
        *markdown_table(
            table.drop(columns="measures").assign(metric=[f"[{name}](#{anchors[name]})" for name in table["metric"]])
        ),
    ]
    cards = [line for kind, names in kinds.items() for line in _card_lines(kind, {n: metrics[n] for n in names})]
    return "\n".join([*head, "", *cards]).rstrip() + "\n"


def format_interval(limits: Limits | None) -> str:
    """A range such as [0, 1], or [0, inf) without a bound."""
    if limits is None:
        return ""
    low, high = limits
    return f"{'(' if low == -inf else '['}{low:g}, {high:g}{')' if high == inf else ']'}"


def differing_settings(own: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The settings in which metrics of one class differ."""
    keys = dict.fromkeys(key for given in own.values() for key in given)
    return [key for key in keys if len({given.get(key) for given in own.values()}) > 1]


def title(kind: type) -> str:
    """The standard name of a class of metrics, such as "Deletion and insertion AUC"; the class name if unknown."""
    return definitions().get(kind.__name__, {}).get("title", kind.__name__)


def _card_lines(kind: type, metrics: Mapping[str, Any]) -> list[str]:
    measures, source = measures_and_source(kind)
    facts = [f"Source: {source}."] if source else []
    lines = [f"## {title(kind)}", "", *definition_lines(kind, measures)]
    about = plain_text(" ".join([*facts, remarks(kind)])).strip()
    lines += [about, ""] if about else []
    lines += field_lines(kind)
    own = {name: settings(metric) for name, metric in metrics.items()}
    rows = [
        {"metric": name, **{key: given.get(key, "") for key in differing_settings(own)}} for name, given in own.items()
    ]
    lines += [*markdown_table(pd.DataFrame(rows)), ""]
    degenerate = list(dict.fromkeys(entry for metric in metrics.values() for entry in metric_card(metric).degenerate))
    if degenerate:
        lines += ["Limitations:", "", *(f"- {plain_text(entry)}" for entry in degenerate), ""]
    return lines
