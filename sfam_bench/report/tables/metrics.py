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
from sfam_bench.report.tables.methods import field_lines, markdown_table, plain_text

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
    kind_of = {name: kind.__name__ for kind, names in kinds.items() for name in names}
    side = round(pixels**0.5)
    head = [
        "# The metrics",
        "",
        "Written by `make metrics`, from each metric's docstring, card and settings. *label* is its name in tables and "
        "figures, *table* the title of its table. *better* is the direction of better values; -- marks "
        "what is no score of a method (a chance level, an error of measurement). *passes* counts the perturbed images "
        f"that a map costs, on average over pairs, at {side} x {side} pixels; methods whose maps coincide, and metrics "
        "that ask the same, share them. *maps* counts the further maps that a method makes for each. A value that "
        "cannot be had is NaN with a reason, and a metric whose regions a data set lacks is left out and named.",
        "",
        *markdown_table(
            table.drop(columns="measures").assign(
                metric=[f"[{name}](#{kind_of[name].lower()})" for name in table["metric"]]
            )
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


def _card_lines(kind: type, metrics: Mapping[str, Any]) -> list[str]:
    measures, source = measures_and_source(kind)
    facts = [f"Source: {source}."] if source else []
    lines = [f"## {kind.__name__}", "", plain_text(measures), ""]
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
