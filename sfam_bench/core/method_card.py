"""What a method says about itself: for the table, the page of cards, and the contract tests that hold it to it."""

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeAlias

Total: TypeAlias = Literal["none", "score", "change"]


@dataclass(frozen=True)
class Card:
    """What neither the docstring nor the fields of a method say; with the fields at their defaults.

    reads_reference: the map changes with the reference; a control's does not.
    signed: the map can fall below zero.
    total: what the map sums to over positions, as far as the method is exact: the "score" less the bias of the head,
        its "change" from the method's own baseline, or "none".
    margin: the method takes the margin target; those that do not raise UserError.
    needs: what it needs beyond any model and pair: "attention" of a vision transformer, "training" images.
    identities: what it equals, and where; each is a test.
    degenerate: where the map says nothing, or something other than it seems to.
    control: it stands in every table for others to beat, and is no explanation.
    remakes: it can explain a changed model, query or reference; maps out of files cannot.
    """

    reads_reference: bool = True
    signed: bool = True
    total: Total = "none"
    margin: bool = True
    needs: Literal["", "attention", "training"] = ""
    identities: tuple[str, ...] = ()
    degenerate: tuple[str, ...] = ()
    control: bool = False
    remakes: bool = True

    @property
    def blind(self) -> bool:
        """Whether the map cannot say why this pair is alike."""
        return self.control or not self.reads_reference


def card_of(explainer: object) -> Card:
    """The card of an explainer, made ready or not; one that has none says nothing special."""
    card = getattr(getattr(explainer, "method", explainer), "card", None)
    return card if isinstance(card, Card) else Card()


def formula_and_source(method: type) -> tuple[str, str]:
    """The first line of a method's docstring, "formula; source.", in its two parts."""
    formula, _, source = (method.__doc__ or "").split("\n", 1)[0].rpartition("; ")
    return formula, source.removesuffix(".")


def remarks(method: type) -> str:
    """The docstring's paragraphs between the first line and the fields, as one text."""
    paragraphs = (method.__doc__ or "").split("\n\n")[1:]
    return " ".join(" ".join(text.split()) for text in paragraphs if not _field_lines(method, text))


def field_notes(method: type) -> dict[str, str]:
    """What the docstring says of each field."""
    lines = [text for text in (method.__doc__ or "").split("\n\n")[1:] if _field_lines(method, text)]
    notes: dict[str, str] = {}
    for line in "\n".join(lines).splitlines():
        names = _field_lines(method, line)
        if names:
            current = names
            notes.update(dict.fromkeys(names, line.split(":", 1)[1].strip()))
        elif line.strip():
            notes.update({name: f"{notes[name]} {line.strip()}" for name in current})
    return notes


def _field_lines(method: type, text: str) -> list[str]:
    """The fields that a text begins by naming: "one: ..." or "one, other: ..."."""
    found = re.match(r"\s*([a-z_]\w*(?:, [a-z_]\w*)*):\s", text)
    names = found[1].split(", ") if found else []
    return names if set(names) <= {field.name for field in fields(method)} else []


def method_settings(explainer: object) -> dict[str, Any]:
    """The class of an explainer as "_target_", and its fields by name."""
    kind = type(explainer)
    own = [field.name for field in fields(explainer) if field.init] if is_dataclass(explainer) else []
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **{name: getattr(explainer, name) for name in own}}
