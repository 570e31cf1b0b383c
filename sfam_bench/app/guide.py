"""The help of a command: its docstring, its config groups, and its most used settings.

Neither a command nor Hydra is imported for it.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from sfam_bench.app import commands as package
from sfam_bench.app.listing import WIDTH, format_lines
from sfam_bench.core.conf import conf_folder, read_yaml

SETTINGS = "Settings:"  # begins the paragraph of a command's docstring that names the settings that help explains
TRAINING = {"miner", "loss", "recipe", "augmentation", "validation"}  # groups that only train and sweep read
PRESETS = "experiment"  # the group whose folders hold more of its choices; folders of others are groups of their own
LINE = re.compile(r"^( *)([\w/]+):(?: +([^#]*?))?(?: +# *(.*))?$")
OVERVIEW = """usage: sfam-bench COMMAND [SETTING=VALUE ...]

{}

sfam-bench COMMAND --help explains a command; sfam-bench --version
Completion: source <(sfam-bench --completion bash), or zsh"""
GROUPS = "Groups of settings; choose with GROUP=NAME, or with GROUP=[NAME,...] where several are possible:\n{}"
CHANGED = "Most used settings, and their defaults:\n{}"
MORE = "All settings: sfam-bench {} --cfg job. A folder with groups of your own: --config-dir FOLDER."


def commands() -> dict[str, str]:
    """Each command and the name of its module."""
    return {found.name.replace("_", "-"): found.name for found in iter_modules(package.__path__)}


def overview(known: Mapping[str, str]) -> str:
    """The list of all commands, one line each."""
    purposes = {name: docstring(module).splitlines()[0].partition(";")[0] for name, module in known.items()}
    return OVERVIEW.format(textwrap.indent(format_lines(purposes, WIDTH), "  "))


def command_page(command: str, module: str) -> str:
    """The help of one command: purpose, examples, groups with their choices, most used settings."""
    text, _, named = docstring(module).partition(SETTINGS)
    files, groups = [*_files(module)], find_groups(module)
    parts = [text.strip()]
    if groups:
        parts.append(GROUPS.format("\n".join(map(_choices, groups))))
    if named:
        known = find_settings(module)
        rows = [(f"  {name}={known[name][0]}", known[name][1]) for name in list_settings(named)]
        wide = max(len(given) for given, _ in rows)
        parts.append(CHANGED.format("\n".join(f"{given:{wide}}  {comment}".rstrip() for given, comment in rows)))
    return "\n\n".join([*parts, *([MORE.format(command)] if files else [])])


def find_groups(module: str) -> list[str]:
    """The groups of settings of a command, without those that only training reads."""
    return [name for name in _groups([*_files(module)]) if module == "train" or name not in TRAINING]


def find_settings(module: str) -> dict[str, tuple[str, str]]:
    """The settings of a command by name, with default and comment."""
    return dict(_settings([*_files(module)]))


def docstring(module: str) -> str:
    """The docstring of a command."""
    file = Path(package.__path__[0]) / f"{module}.py"
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False) or ""


def list_settings(settings: str) -> list[str]:
    """The settings in the last paragraph of a docstring."""
    return [name.strip(" .\n") for name in settings.split(",")]


def _files(config: str) -> Iterator[Path]:
    """The config file of a command and those that it includes; empty if it has no settings."""
    file = conf_folder() / f"{config}.yaml"
    if file.is_file():
        yield file
        for entry in _defaults(file):
            if isinstance(entry, str) and entry != "_self_":
                yield from _files(entry)


def _defaults(file: Path) -> list[Any]:
    found: list[Any] = read_yaml(file).get("defaults", [])
    return found


def _groups(files: list[Path]) -> list[str]:
    """The groups that a command chooses from, those of its own file first."""
    found = [name for file in files for entry in _defaults(file) if isinstance(entry, dict) for name in entry]
    groups = [name for name in dict.fromkeys(found) if (conf_folder() / name).is_dir()]
    return [name for group in groups for name in (group, *(_folders(group) if group != PRESETS else ()))]


def _folders(group: str) -> list[str]:
    """The folders of a group, each with the name of the group before it."""
    return [f"{group}/{folder.name}" for folder in sorted((conf_folder() / group).iterdir()) if folder.is_dir()]


def _choices(group: str) -> str:
    found = sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))
    below = [
        f"{Path(folder).name}/NAME ({len([*(conf_folder() / folder).glob('*.yaml')])})"
        for folder in (_folders(group) if group == PRESETS else ())
    ]
    text = f"  {group}: {', '.join([*found, *below])}"
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _settings(files: list[Path]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each setting in these files, with its default and comment as written; later files override earlier ones."""
    for file in reversed(files):
        above: list[tuple[int, str]] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if found := LINE.match(line):
                indent = len(found[1])
                above = [*((depth, name) for depth, name in above if depth < indent), (indent, found[2])]
                yield ".".join(name for _, name in above), (found[3] or "", found[4] or "")
