"""The table of methods, and a card for each, out of docstrings, fields and what was measured."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from sfam_bench.core.method_card import card_of, field_notes, formula_and_source, remarks

NEEDS = {"attention": "needs the attention of a vision transformer", "training": "needs the training images, once"}
TINY = 1e-7  # rounding error of float32
TOTALS = {"score": "the score", "change": "its change from the baseline", "none": "--"}


SYMBOLS = [
    "Symbols: $M$ is the map of the query at positions $ij$, before it is scaled; $A_k$ the query's activations in "
    "channel $k$ and $B_k$ the reference's; $p$ and $q$ their pooled activations, $e$ and $v$ their embeddings; $s$ "
    "the target; $x$ the query's pixels; $N$ the number of positions.",
    "",
]
PICTURED = [
    "The pictures show one query with two partial matches, on the planted set. The first reference shares only the "
    "crest with the query, the second only the tail: a method that uses the reference moves its map from the crest to "
    "the tail. Yellow raises the similarity, blue lowers it. Methods for vision transformers have no picture, as the "
    "model of the planted set is convolutional.",
    "",
]


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
                "ms per map": _number(found.get("milliseconds")),
                "reference": "control" if card.control else "yes" if card.reads_reference else "blind",
                "signed": "yes" if card.signed else "no",
                "sums to": TOTALS[card.total],
                "residual": _residual(found.get("residual")),
            }
        )
    return pd.DataFrame(rows)


def methods_page(
    methods: Mapping[str, type], measured: Mapping[str, Mapping[str, Any]], on: str, pictures: Collection[str] = ()
) -> str:
    """The table and the cards as Markdown.

    on: the pairs and the model of the measurements.
    pictures: the methods that have a picture, images/methods/NAME.png beside the page.
    """
    table = method_table(methods, measured)
    head = [
        "# The methods",
        "",
        f"This page is written by `make methods` from the docstring, the fields and the card of each method, and from "
        f"measurements on {on}.",
        "",
        "- *forward*, *backward*: images that pass through the trunk for each map, besides encoding the pair once. "
        "Methods with the same masks share these passes in a run.",
        "- *ms per map*: time of one run on the machine at hand.",
        "- *reference*: *blind* methods ignore the reference; a *control* is a negative control, which every method "
        "should beat.",
        "- *residual*: |sum of the map - what it should sum to| / |score|, median over the pairs.",
        "",
        "All methods support cosine, dot product and negative squared Euclidean distance. The map of the reference is "
        "the same call with the pair swapped. A method that uses the reference's embedding also explains a similarity "
        "to a prototype, a class proxy or any other vector; one that uses the reference's images also explains a "
        "similarity to a prototype, as the sum over its images, and refuses vectors.",
        "",
        *SYMBOLS,
        *(PICTURED if pictures else []),
        *markdown_table(table.assign(method=[f"[{name}](#{name})" for name in table["method"]])),
        "",
        "Left out:",
        "",
        *(f"- {plain_text(name)}: {plain_text(why)}" for name, why in left_out().items()),
    ]
    cards = [line for name, method in methods.items() for line in _card_lines(name, method, name in pictures)]
    return "\n".join([*head, "", *cards]).rstrip() + "\n"


def _card_lines(name: str, method: type, pictured: bool) -> list[str]:
    card = card_of(method)
    formula, source = formula_and_source(method)
    lines = [
        f"## {name}",
        "",
        *definition_lines(method, formula),
        *([f"![Maps of {name} for two partial matches](images/methods/{name}.png)", ""] if pictured else []),
        f"Source: {plain_text(source)}. {plain_text(remarks(method))}".rstrip(),
        "",
    ]
    images = "single image" if card.one_image else "images" if card.needs_images else "embedding"
    uses = f"uses the reference's {images}"
    facts = [
        "negative control" if card.control else uses if card.reads_reference else "ignores the reference",
        "signed" if card.signed else "non-negative",
        f"sums to {TOTALS[card.total]}" if card.total != "none" else "not additive",
        "supports the margin target" if card.margin else "no margin target",
        *([NEEDS[card.needs]] if card.needs else []),
    ]
    lines += [f"{'; '.join(facts).capitalize()}.", ""]
    lines += field_lines(method)
    for title, entries in (("Identities", card.identities), ("Limitations", card.degenerate)):
        if entries:
            lines += [f"{title}:", "", *(f"- {plain_text(entry)}" for entry in entries), ""]
    return lines


@cache
def left_out() -> dict[str, str]:
    """The methods without a row, each with the reason, from left_out.yaml."""
    found: dict[str, str] = yaml.safe_load((files(__package__) / "left_out.yaml").read_text("utf-8"))
    return found


@cache
def definitions() -> dict[str, dict[str, str]]:
    """Formula, symbols and title of methods and metrics by the name of their class, from definitions.yaml."""
    found: dict[str, dict[str, str]] = yaml.safe_load((files(__package__) / "definitions.yaml").read_text("utf-8"))
    return found


def definition_lines(kind: type, otherwise: str) -> list[str]:
    """The formula of a class, which Markdown typesets, and its symbols; `otherwise` as text where none is known."""
    if not (known := definitions().get(kind.__name__)):
        return [plain_text(otherwise), ""]
    symbols = known["where"]
    return ["$$", known["formula"], "$$", "", f"{symbols[0].upper()}{symbols[1:]}.", ""]


def field_lines(kind: type) -> list[str]:
    """A Markdown table of documented fields and their defaults; empty without any."""
    notes = field_notes(kind)
    own = [field for field in fields(kind) if field.name in notes]
    if not own:
        return []
    defaults = {field.name: "required" if field.default is MISSING else f"`{_yaml(field.default)}`" for field in own}
    rows = [
        f"| `{key}` | {value} | {plain_text(notes[key]).replace('|', chr(92) + '|')} |"
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
