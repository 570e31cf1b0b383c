"""The description that comes with a submission."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable

from sfam_bench.core.errors import UserError

READS = ("query", "reference", "activations", "gradients", "attention", "passes", "ids")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
ADDRESS = re.compile(r"https://[\w.~:/?#@!$&'()*+,;=%-]{4,200}")
LONGEST = 200
NUMBERS = BeartypeConf(is_pep484_tower=True)  # an integer is accepted as a float
EXPECTED = {**dict.fromkeys(("name", "paper", "code"), "a string"), "reads": "a list", "seconds": "a number or null"}
FORBIDDEN = re.compile(r"[<>\[\]{}|`\\\x00-\x1f\x7f]")  # of HTML, Markdown, LaTeX and control characters


@dataclass(frozen=True)
class SubmissionCard:
    """What the authors of a method say of it; shown beside what is measured.

    name: in tables and of the file: lower-case letters, digits and underscores.
    reads: what the map is computed from, out of READS.
    paper: authors, venue and year; "" if there is none.
    code: an https address; "" if there is none.
    seconds: for a map, as its authors state; null if it is measured, which it is for code.
    """

    name: str
    reads: tuple[str, ...]
    paper: str = ""
    code: str = ""
    seconds: float | int | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"card: name is {self.name!r:.60}: use 1 to 40 of a-z, 0-9 and _, a letter first")
        if not self.reads or (unknown := [what for what in self.reads if what not in READS]):
            found = repr(unknown[0]) if self.reads else "empty"
            raise UserError(f"card: reads is {found}: list what the map is computed from, out of {', '.join(READS)}")
        if len(self.paper) > LONGEST or FORBIDDEN.search(self.paper):
            raise UserError(
                f"card: paper is {self.paper!r:.60}: give at most {LONGEST} characters of plain text, without HTML"
            )
        if self.code and not ADDRESS.fullmatch(self.code):
            raise UserError(f"card: code is {self.code!r:.60}: give an https address, or nothing")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise UserError(f"card: seconds is {self.seconds}: give a number of at least 0, or null")

    @classmethod
    def of(cls, facts: Any, where: str) -> "SubmissionCard":
        """A card out of YAML or JSON; UserError, with `where`, for an unknown field or a wrong type."""
        if not isinstance(facts, Mapping):
            raise UserError(f"{where} holds no card: give name, reads, paper, code and seconds")
        hints = get_type_hints(cls)
        if unknown := [str(key) for key in facts if key not in hints]:
            raise UserError(f"{where}: a card has no field {unknown[0]!r:.40}: it has {', '.join(hints)}")
        if missing := [key for key in ("name", "reads") if key not in facts]:
            raise UserError(f"{where}: the card has no {missing[0]}: add it")
        known: dict[str, Any] = {
            str(key): tuple(value) if isinstance(value, list) else value for key, value in facts.items()
        }
        for key, value in known.items():
            if not is_bearable(value, hints[key], conf=NUMBERS):
                raise UserError(f"{where}: {key} is {value!r:.60}: give {EXPECTED[key]}")
        return cls(**known)

    @property
    def facts(self) -> dict[str, Any]:
        """In JSON types."""
        return {**asdict(self), "reads": list(self.reads)}
