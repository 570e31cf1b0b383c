"""The table of methods, and a card for each, out of docstrings, fields and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import pandas as pd

from sfam_bench.core.method_card import card_of, field_notes, formula_and_source, remarks

NEEDS = {"attention": "needs the attention of a vision transformer", "training": "needs the training images, once"}
TINY = 1e-7  # rounding error of float32
TOTALS = {"score": "the score", "change": "its change from the baseline", "none": "--"}


def method_table(methods: Mapping[str, type], measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each method; `measured` has forwards, backwards, milliseconds and residual of measured methods."""
    rows = []
    for name, method in methods.items():
        card, found = card_of(method), measured.get(name, {})
        rows.append(
            {
                "method": name,
                "paper": formula_and_source(method)[1],
                "targets": "score, margin" if card.margin else "score",
                "forward": _number(found.get("forwards")),
                "backward": _number(found.get("backwards")),
                "ms a map": _number(found.get("milliseconds")),
                "reference": "control" if card.control else "yes" if card.reads_reference else "blind",
                "signed": "yes" if card.signed else "no",
                "sums to": TOTALS[card.total],
                "residual": _residual(found.get("residual")),
            }
        )
    return pd.DataFrame(rows)


def methods_page(methods: Mapping[str, type], measured: Mapping[str, Mapping[str, Any]], on: str) -> str:
    """The table and the cards as Markdown; `on` describes the measurement."""
    table = method_table(methods, measured)
    head = [
        "# The methods",
        "",
        "Written by `make methods`, from each method's docstring, fields and card, and from what was measured: "
        f"{on}. Forward and backward count images through the trunk a map, beyond encoding the pair once; methods "
        "that share masks share those passes in a run; the time is that of one run on the machine at hand. "
        "Residual is |sum of the map - what it sums to| / |score|, "
        "median over the pairs. All take cosine, dot product and negative squared Euclidean distance; the map "
        "of the reference is the same call with the pair swapped. *blind* marks maps that ignore the reference, "
        "*control* those that every method must beat.",
        "",
        *markdown_table(table.assign(method=[f"[{name}](#{name})" for name in table["method"]])),
    ]
    cards = [line for name, method in methods.items() for line in _card_lines(name, method)]
    return "\n".join([*head, "", *cards]).rstrip() + "\n"


def _card_lines(name: str, method: type) -> list[str]:
    card = card_of(method)
    formula, source = formula_and_source(method)
    lines = [
        f"## {name}",
        "",
        f"{plain_text(formula)}",
        "",
        f"Source: {plain_text(source)}. {plain_text(remarks(method))}".rstrip(),
        "",
    ]
    facts = [
        "a control" if card.control else "reads the reference" if card.reads_reference else "blind to the reference",
        "signed" if card.signed else "not negative",
        f"sums to {TOTALS[card.total]}" if card.total != "none" else "not additive",
        "takes the margin target" if card.margin else "no margin target",
        *([NEEDS[card.needs]] if card.needs else []),
    ]
    lines += [f"{'; '.join(facts).capitalize()}.", ""]
    lines += field_lines(method)
    for title, entries in (("Identities", card.identities), ("Limitations", card.degenerate)):
        if entries:
            lines += [f"{title}:", "", *(f"- {plain_text(entry)}" for entry in entries), ""]
    return lines


def field_lines(kind: type) -> list[str]:
    """A Markdown table of documented fields and their defaults; empty without any."""
    notes = field_notes(kind)
    own = [field for field in fields(kind) if field.name in notes]
    if not own:
        return []
    defaults = {field.name: "" if field.default is MISSING else _yaml(field.default) for field in own}
    rows = [
        f"| `{key}` | `{value}` | {plain_text(notes[key]).replace('|', chr(92) + '|')} |"
        for key, value in defaults.items()
    ]
    return ["| field | default | |", "|---|---|---|", *rows, ""]


def plain_text(text: str) -> str:
    """Escape asterisks and underscores for Markdown, outside of backticks."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _yaml(value: Any) -> str:
    value = getattr(value, "name", value)  # a baseline
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _residual(value: float | None) -> str:
    if value is not None and value < TINY:
        return f"<{TINY:.0e}"
    return "" if value is None else f"{value:.0e}" if value < 0.001 else f"{value:.3f}"


def markdown_table(table: pd.DataFrame) -> Sequence[str]:
    """A table as Markdown."""
    cells = [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    return [f"| {' | '.join(row)} |" for row in [list(table.columns), ["---"] * len(table.columns), *cells]]
