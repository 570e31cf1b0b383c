"""Command lines and YAML files with mistakes in them: each must be refused by the name of its setting."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.fuzz import config_lines, config_values
from benchmarks.fuzz.attempt import Attempt
from benchmarks.fuzz.config_values import Line
from benchmarks.fuzz.folders import EVALUATE, TRAIN, prepare
from benchmarks.fuzz.scripts import script

__all__ = ["attempt", "prepare"]

WAYS: tuple[Callable[[Random, Path, Path], Line], ...] = (*config_values.WAYS, *config_lines.WAYS)
GIVEN = {"evaluate": EVALUATE, "train": TRAIN, "submit": EVALUATE}


def arguments(line: Line, folder: Path) -> list[str]:
    """The command line: the line's own settings in the place of those that a small run is given."""
    planned = line.script != "submit" or "verb=plan" in line.own
    found = {text.partition("=")[0]: text for text in GIVEN.get(line.script, ()) if planned}
    if any(text.startswith("dataset=") for text in line.own):
        found = {name: text for name, text in found.items() if not name.startswith("dataset.")}
    if found:
        found["run_dir"] = f"run_dir={folder / 'out'}"
    for text in line.own:
        found.pop(text.partition("=")[0], None)
    return [*found.values(), *line.own]


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Make the mistake of this number."""
    line = WAYS[number % len(WAYS)](random, shared, folder)
    given = arguments(line, folder)

    def read() -> str:
        return script(line.script, *given)

    def wrong(printed: str) -> str:
        if line.right is None:
            return f"accepted: {printed.strip().splitlines()[-1][:200] if printed.strip() else 'nothing was said'}"
        return line.right(printed)

    return Attempt(f"{line.script} {' '.join(line.own)}", read, wrong, line.names, line.sound)
