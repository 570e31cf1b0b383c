"""A job of a sweep: done, failed or missing, as the files say that it leaves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfam_bench.core.files import atomic

DONE = "done.json"
STATES = ("done", "failed", "missing")


@dataclass(frozen=True)
class Job:
    """A job of a sweep by its folder ROOT/ID, and the values of the axes that it stands for."""

    id: str
    root: Path
    axes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return self.root / self.id

    @property
    def failure(self) -> Path:
        """What it leaves when it fails."""
        return self.root / "failures" / f"{self.id}.json"

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return (self.folder / DONE).is_file()

    @property
    def state(self) -> str:
        """One of STATES; a job that was killed, or still runs, is missing."""
        return "done" if self.done else "failed" if self.failure.is_file() else "missing"

    @property
    def why(self) -> str:
        """The error of a failed job, on one line."""
        if self.state != "failed":
            return ""
        try:
            return str(json.loads(self.failure.read_text())["error"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return f"see {self.failure}"

    def finished(self, facts: Mapping[str, Any]) -> None:
        """Leave word that it is done, the last file of all."""
        _write(self.folder / DONE, facts)
        self.failure.unlink(missing_ok=True)

    def failed(self, facts: Mapping[str, Any]) -> None:
        """Leave word of its failure."""
        self.failure.parent.mkdir(exist_ok=True)
        _write(self.failure, facts)


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
