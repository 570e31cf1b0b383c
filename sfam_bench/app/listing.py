"""What conf/ offers: one line for each entry of a group, and the card of one; without Hydra or torch."""

import ast
import sys
import textwrap
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sfam_bench.core.conf import PACKAGE, conf_folder, read_yaml
from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.signals import ignore_closed_pipe

WIDTH = 118  # of cards and help
LINE = 160  # of lists
Lines = Mapping[str, str]  # of each entry by its name


def list_or_show(command: str, lines: Callable[[], Lines], card: Callable[[str], str], what: str) -> None:
    """Run `sfam-bench COMMAND ls [NAME]`: print a line for each entry, or the card of one; errors are one line."""
    verb, *names = sys.argv[1:] or ["ls"]
    try:
        if verb != "ls" or len(names) > 1:
            raise UserError(f"{command} accepts ls [NAME], not {' '.join(sys.argv[1:])!r}")
        print_entries(lines(), card, what, names)
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def print_entries(lines: Lines, card: Callable[[str], str], what: str, names: list[str]) -> None:
    """Print the list, or the card of the entry in `names`; UserError, with near names, if there is none."""
    if names and names[0] not in lines:
        near = ", ".join(get_close_matches(names[0], lines, 3))
        raise UserError(f"there is no {what} {names[0]!r}: {f'did you mean {near}?' if near else 'ls lists them'}")
    with ignore_closed_pipe():
        print(card(names[0]) if names else format_lines(lines))


def format_lines(lines: Lines, width: int = LINE) -> str:
    """Names and descriptions in two columns, each on one line, descriptions cut to `width` less the names."""
    wide = max(map(len, lines))
    cut = {name: textwrap.shorten(text, width - wide, placeholder=" ...") for name, text in lines.items()}
    return "\n".join(f"{name:{wide}}  {text}" for name, text in cut.items())


def list_files(group: str) -> dict[str, str]:
    """The files of a group of conf/, those in folders below it too, each with its first comment or docstring."""
    root = conf_folder() / group
    files = sorted(root.rglob("*.yaml"), key=lambda file: (len(file.relative_to(root).parts), file))
    return {file.relative_to(root).with_suffix("").as_posix(): describe_file(file, group) for file in files}


def list_entries(group: str) -> dict[str, str]:
    """The entries in the files of a group that hold several by name, each with the first line of its class."""
    found = {}
    for file in sorted((conf_folder() / group).glob("*.yaml")):
        for name, node in read_yaml(file).items():
            if isinstance(node, dict) and "_target_" in node:
                found[name] = first_line(docstring_of(str(node["_target_"])))
    return found


def describe_file(file: Path, group: str) -> str:
    """What a file of conf/ is: the comment at its head, or the first line of its target's docstring."""
    comments = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comments.append(line.lstrip("# "))
    return " ".join(comments) or first_line(docstring_of(find_target(read_yaml(file), group)))


def describe_choice(group: str, name: str) -> str:
    """The card of a file of conf/: what it is, its docstring, and its settings as they are written."""
    file = conf_folder() / group / f"{name}.yaml"
    text = docstring_of(find_target(read_yaml(file), group)).strip()
    above = [name, "", describe_file(file, group)]
    settings = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    more = ["", text] if text and text.splitlines()[0] != above[-1] else ["", *text.splitlines()[2:]] if text else []
    return "\n".join([*above, *more, "", f"Settings ({group}={name}):", textwrap.indent(settings.strip("\n"), "  ")])


def find_target(node: Mapping[str, Any], group: str) -> str:
    """The `_target_` of a file; empty if it has none. Files of package _global_ hold it below the group."""
    inner = node.get(group)
    return str(node.get("_target_") or (inner.get("_target_") if isinstance(inner, dict) else "") or "")


def docstring_of(target: str) -> str:
    """The docstring of a class or function of this package by its dotted name, without an import; empty if unknown."""
    module, _, name = target.rpartition(".")
    file = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    if not name or not file.is_file():
        return ""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def first_line(text: str) -> str:
    """The first line of a docstring."""
    return text.split("\n", 1)[0]


def wrap(text: str, indent: str = "") -> str:
    """A paragraph in lines of the width of the help; further lines are indented."""
    return textwrap.fill(" ".join(text.split()), WIDTH, subsequent_indent=indent)
