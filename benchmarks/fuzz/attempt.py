"""One broken input: what was done to it, how it is read, and what may come of that."""

import logging
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sfam_bench.app.cli import MISTAKES, explain_error
from sfam_bench.core.errors import UserError

RIGHT, REFUSED = "right", "refused"
GOOD = (RIGHT, REFUSED)
OUTCOMES = (*GOOD, "unhelpful", "traceback", "crash", "hang", "silent")
# What Python and Hydra say where nobody has put it in words
RAW = re.compile(
    r"Error in call to target|Error locating target|\b[A-Z]\w*(Error|Exception)\(|INTERNAL ASSERT|<class '"
)


@dataclass(frozen=True)
class Outcome:
    """One of OUTCOMES, and the message or the difference behind it."""

    name: str
    message: str = ""


@dataclass(frozen=True)
class Attempt:
    """A broken input.

    what: what was done, in words.
    read: reads it and returns what was found; raises, or exits, where it is refused.
    wrong: what is wrong with what was found, in words; nothing where it is right.
    names: a refusal must name one of these: the file, the entry or the setting.
    sound: nothing is wrong with it, so that a refusal is a mistake too.
    """

    what: str
    read: Callable[[], Any]
    wrong: Callable[[Any], str]
    names: tuple[str, ...]
    sound: bool = False


@dataclass
class Heard(logging.Handler):
    """Collects the warnings of the package: what is left out must be said."""

    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


def refusal(message: str, attempt: Attempt) -> Outcome:
    """Whether a refusal says in one line what is wrong where, of an input that is wrong."""
    line, names = message.strip(), attempt.names
    if attempt.sound:
        return Outcome("unhelpful", f"refused, and nothing is wrong with it: {line}")
    named = not names or any(name.lower() in line.lower() for name in names)
    helpful = line and "\n" not in line and named and not RAW.search(line) and len(line) < 700
    return Outcome(REFUSED if helpful else "unhelpful", line)


def judge(attempt: Attempt) -> Outcome:
    """Read the input and say what came of it."""
    try:
        found = attempt.read()
    except UserError as error:
        return refusal(str(error), attempt)
    except MISTAKES as error:  # the scripts put these on one line
        return refusal(explain_error(error), attempt)
    except Exception as error:
        lines = traceback.format_exception(error)
        return Outcome("traceback", f"{type(error).__name__}: {error}"[:300] + f" | {_place(lines)}")
    wrong = attempt.wrong(found)
    return Outcome("silent", wrong) if wrong else Outcome(RIGHT)


def _place(lines: list[str]) -> str:
    """The last line of a traceback that is the project's."""
    text = "".join(lines)
    places = re.findall(r'File ".*?((?:sfam_bench|experiments)/[^"]+)", line (\d+)', text)
    return ":".join(places[-1]) if places else "outside the project"
