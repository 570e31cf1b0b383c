"""An extension of griffe: lines "name: text" of this project's docstrings become lists of arguments or attributes."""

import re
from typing import Any

import griffe

LINE = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.+)", re.DOTALL)


class NamedLines(griffe.Extension):
    """Rewrites docstrings before mkdocstrings parses them in Google's style."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a class or function."""
        if obj.docstring and isinstance(obj, griffe.Class | griffe.Function):
            own = obj.members if isinstance(obj, griffe.Class) else {argument.name for argument in obj.parameters}
            title = "Attributes" if isinstance(obj, griffe.Class) else "Args"
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(as_section(text, set(own), title) for text in paragraphs)


def as_section(paragraph: str, names: set[str], title: str) -> str:
    """A paragraph whose lines begin with known names, as a section of Google's style; any other as it is."""
    entries: list[tuple[list[str], str]] = []
    for line in paragraph.splitlines():
        found = LINE.fullmatch(line)
        if found and set(found[1].split(", ")) <= names:
            entries.append((found[1].split(", "), found[2]))
        elif entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
        else:
            return paragraph
    return "\n".join([f"{title}:", *(f"    {name}: {text}" for keys, text in entries for name in keys)])
