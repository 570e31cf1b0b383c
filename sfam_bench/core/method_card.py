"""The description of a method, for the methods table, its page, and the contract tests that check it."""

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeAlias

Total: TypeAlias = Literal["none", "score", "change"]


@dataclass(frozen=True)
class Card:
    """Properties of a method beyond its docstring and fields, with the fields at their defaults.

    reads_reference: the map depends on the reference; a control's does not.
    needs_images: it needs the activations of the reference's images: those of a prototype are summed, which is exact,
        and a bare vector (a stored embedding, a proxy) is refused. Other methods need the embedding alone.
    one_image: it needs a reference that is a single image; prototypes and vectors are refused.
    signed: the map can be negative.
    total: what the map sums to over positions, if the method is exact: the "score" minus the bias of the head,
        its "change" from the method's own baseline, or "none".
    margin: the method supports the margin target; others raise UserError.
    needs: what it needs beyond any model and pair: "attention" of a vision transformer, "training" images.
    identities: methods that it equals, and under which conditions; each is tested.
    degenerate: cases in which the map is uninformative or misleading.
    control: a negative control, listed in every table; not an explanation.
    remakes: it can explain a changed model, query or reference; maps read from files cannot.
    expensive: a map takes as many passes as one of a method that samples; metrics ask neither method for a map of
        another model or image.
    """

    reads_reference: bool = True
    needs_images: bool = False
    one_image: bool = False
    signed: bool = True
    total: Total = "none"
    margin: bool = True
    needs: Literal["", "attention", "training"] = ""
    identities: tuple[str, ...] = ()
    degenerate: tuple[str, ...] = ()
    control: bool = False
    remakes: bool = True
    expensive: bool = False

    @property
    def blind(self) -> bool:
        """Whether the map does not depend on the pair, so that it cannot explain this pair's similarity."""
        return self.control or not self.reads_reference


def card_of(explainer: object) -> Card:
    """The card of an explainer, prepared or not; a default card if it has none."""
    card = getattr(getattr(explainer, "method", explainer), "card", None)
    return card if isinstance(card, Card) else Card()


def formula_and_source(method: type) -> tuple[str, str]:
    """The first line of a method's docstring, "formula; source.", in its two parts."""
    formula, _, source = (method.__doc__ or "").split("\n", 1)[0].rpartition("; ")
    return formula, source.removesuffix(".")


def remarks(method: type) -> str:
    """The docstring's paragraphs between the first line and the fields, as one string."""
    paragraphs = (method.__doc__ or "").split("\n\n")[1:]
    return " ".join(" ".join(text.split()) for text in paragraphs if not _field_names(method, text))


def field_notes(method: type) -> dict[str, str]:
    """The docstring's description of each field."""
    paragraphs = [text for text in (method.__doc__ or "").split("\n\n")[1:] if _field_names(method, text)]
    notes: dict[str, str] = {}
    for line in "\n".join(paragraphs).splitlines():
        if names := _field_names(method, line):
            current = names
            notes.update(dict.fromkeys(names, line.split(":", 1)[1].strip()))
        elif line.strip():
            notes.update({name: f"{notes[name]} {line.strip()}" for name in current})
    return notes


def _field_names(method: type, text: str) -> list[str]:
    """The fields named at the start of a paragraph or line: "one: ..." or "one, other: ..."."""
    found = re.match(r"\s*([a-z_]\w*(?:, [a-z_]\w*)*):\s", text)
    names = found[1].split(", ") if found else []
    return names if set(names) <= {field.name for field in fields(method)} else []


def method_settings(explainer: object) -> dict[str, Any]:
    """The class of an explainer as "_target_", and its fields by name."""
    kind = type(explainer)
    own = [field.name for field in fields(explainer) if field.init] if is_dataclass(explainer) else []
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **{name: getattr(explainer, name) for name in own}}
