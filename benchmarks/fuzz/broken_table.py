"""A table of a data set in cells, to be changed and written."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.fuzz.expected import BOX, CLASS_NAME, PIXELS, POINTS, Judge, less, part, shorter
from benchmarks.fuzz.layouts import Layout, Snapshot, Table

COLOURS = 7
OPTIONAL = {"boxes": (BOX, 6), "parts": (POINTS,), "attributes": (COLOURS,), "classes": (CLASS_NAME,)}


@dataclass
class Broken:
    """A table in cells, to be changed and written; what it should be read as; and who may be named in a refusal."""

    layout: Layout
    truth: Snapshot
    role: str
    table: Table
    cells: list[list[str]]
    random: Random

    @classmethod
    def of(cls, layout: Layout, truth: Snapshot, random: Random, roles: tuple[str, ...] = ()) -> "Broken":
        """One of the tables, one with a certain role if any is asked for."""
        role = random.choice([name for name in layout.tables if not roles or name in roles] or [*layout.tables])
        table = layout.tables[role]
        rows = table.path.read_text(encoding="utf-8").splitlines()
        return cls(layout, truth, role, table, [row.split(table.separator) for row in rows], random)

    @property
    def first(self) -> int:
        """The first line of data."""
        return int(self.table.header)

    def line(self) -> int:
        """A line of data at random."""
        return self.random.randrange(self.first, len(self.cells))

    def two(self) -> tuple[int, int]:
        """Two lines of data, of different classes."""
        half = (self.first + len(self.cells)) // 2
        return self.random.randrange(self.first, half), self.random.randrange(half, len(self.cells))

    def column(self, names: tuple[str, ...]) -> int:
        """One of these columns, or the last."""
        found = [at for at, name in enumerate(self.table.columns) if name in names]
        return self.random.choice(found or [len(self.table.columns) - 1])

    def write(self, separator: str | None = None, end: str = "\n", encoding: str = "utf-8") -> None:
        """Write it back."""
        glue = self.table.separator if separator is None else separator
        text = end.join(glue.join(row) for row in self.cells) + end
        self.table.path.write_bytes(text.encode(encoding, errors="replace"))

    @property
    def free(self) -> bool:
        """Whether it is a list of one's own, of any length and with any numbers as labels."""
        return self.role in ("csv", "train", "test")

    def lacking(self) -> Judge:
        """What may come of a table that lacks lines."""
        if self.free:
            return shorter(self.truth)
        return less(self.truth, *OPTIONAL[self.role]) if self.role in OPTIONAL else part(self.truth)


Change = Callable[[Broken], tuple[str, Judge]]


def literal(broken: Broken) -> Judge:
    """What cannot be told from right is read as it stands: only keys and pixels are known."""

    def judge(read: tuple[Snapshot, list[str]]) -> str:
        lost = broken.truth.keys() ^ read[0].keys()
        pixels = {row[PIXELS] for row in read[0].values()} ^ {row[PIXELS] for row in broken.truth.values()}
        return f"images lost or added: {lost or pixels}" if lost or pixels else ""

    return judge
