"""List the methods, one line each; with a name, print what it is, its settings and its limitations.

Examples:

    sfam-bench explainers ls
    sfam-bench explainers ls sfam
    sfam-bench explain a.jpg b.jpg --explainers sfam,grad_cam
"""

from functools import partial

from sfam_bench.app.listing import list_entries, list_or_show, wrap


def main() -> None:
    """Print the list or a card."""
    list_or_show("explainers", partial(list_entries, "explainer"), describe, "explainer")


def describe(name: str) -> str:
    """The card of a method."""
    from sfam_bench.core.method_card import (  # imports torch with the method, which the list does not need
        card_of,
        field_notes,
        formula_and_source,
        method_settings,
        remarks,
    )
    from sfam_bench.evaluation.named import find_object
    from sfam_bench.report.tables.methods import describe_card

    made = find_object("explainer", name)
    kind, card = type(made), card_of(made)
    formula, source = formula_and_source(kind)
    lines = [name, "", formula, wrap(f"Source: {source}. {remarks(kind)}"), "", describe_card(card)]
    notes = field_notes(kind)
    settings = {key: value for key, value in method_settings(made).items() if key in notes}
    if settings:
        lines += ["", f"Settings (explainer.{name}.SETTING=VALUE):"]
        lines += [wrap(f"{key}={value}: {notes[key]}", indent="    ") for key, value in settings.items()]
    for title, entries in (("Identities", card.identities), ("Limitations", card.degenerate)):
        lines += ["", f"{title}:", *(f"  - {entry}" for entry in entries)] if entries else []
    return "\n".join(lines)
