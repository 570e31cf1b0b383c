"""Broken tables: lines deleted, doubled, cut and exchanged, other separators, encodings, headers and values."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.fuzz.expected import BOX, CLASS_NAME, PIXELS, POINTS, Judge, either
from benchmarks.fuzz.expected import content, less, part, refused, said, same, shorter
from benchmarks.fuzz.layouts import Layout, Snapshot, Table

COLOURS = 7
OPTIONAL = {"boxes": (BOX, 6), "parts": (POINTS,), "attributes": (COLOURS,), "classes": (CLASS_NAME,)}
LABELS = ("label",)
EDGES = ("x", "y", "width", "height", "x_1", "y_1", "x_2", "y_2")


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
        """Whether it is a list of one's own, of which nobody knows how long it should be, and labels are any numbers."""
        return self.role in ("csv", "train", "test")

    def lacking(self) -> Judge:
        """What may come of a table that lacks lines."""
        if self.free:
            return shorter(self.truth)
        return less(self.truth, *OPTIONAL[self.role]) if self.role in OPTIONAL else part(self.truth)


Change = Callable[[Broken], tuple[str, Judge]]


def delete_line(broken: Broken) -> tuple[str, Judge]:
    at = broken.line()
    del broken.cells[at]
    broken.write()
    harmless = same(broken.truth) if broken.role == "classes" else broken.lacking()
    return f"line {at + 1} deleted", harmless


def double_line(broken: Broken) -> tuple[str, Judge]:
    at = broken.line()
    broken.cells.insert(at, broken.cells[at])
    broken.write()
    return f"line {at + 1} twice", same(broken.truth)


def double_id(broken: Broken) -> tuple[str, Judge]:
    one, other = broken.two()
    broken.cells.append([broken.cells[one][0], *broken.cells[other][1:]])
    if broken.role == "csv":
        broken.cells[-1] = [broken.cells[other][0], broken.cells[one][1], *broken.cells[other][2:]]
    broken.write()
    if broken.role in ("parts", "attributes"):
        return f"line {other + 1} once more for image {broken.cells[-1][0]}", same(broken.truth)
    return f"the id of line {one + 1} once more with the values of line {other + 1}", refused()


def exchange(broken: Broken) -> tuple[str, Judge]:
    """Exchange what two lines of different classes say; only boxes, parts and colours tell no one that they are wrong."""
    one, other = broken.two()
    a, b = broken.cells[one], broken.cells[other]
    at = 1 if broken.role != "parts" else 2
    a[at:], b[at:] = b[at:], a[at:]
    if broken.role == "csv":
        a[at:3], b[at:3] = b[at:3], a[at:3]  # paths stay; roles and boxes are exchanged
    broken.write()
    what = f"lines {one + 1} and {other + 1} exchanged but for their first columns"
    if broken.role in ("boxes", "parts", "attributes", "csv", "train", "test"):
        return what, literal(broken)
    return what, refused()


def literal(broken: Broken) -> Judge:
    """What cannot be told from right is read as it stands: only keys and pixels are known."""

    def judge(read: tuple[Snapshot, list[str]]) -> str:
        lost = broken.truth.keys() ^ read[0].keys()
        pixels = {row[PIXELS] for row in read[0].values()} ^ {row[PIXELS] for row in broken.truth.values()}
        return f"images lost or added: {lost or pixels}" if lost or pixels else ""

    return judge


def cut_short(broken: Broken) -> tuple[str, Judge]:
    data = broken.table.path.read_bytes()
    keep = broken.random.randrange(len(data) // 10, len(data) * 8 // 10)
    broken.table.path.write_bytes(data[:keep])
    return f"cut after {keep} of {len(data)} bytes", broken.lacking()


def other_separator(broken: Broken) -> tuple[str, Judge]:
    glue = broken.random.choice(["\t", "  ", ";", ", ", " , "])
    broken.write(glue)
    return f"separated by {glue!r}", same(broken.truth)


def other_lines(broken: Broken) -> tuple[str, Judge]:
    end = broken.random.choice(["\r\n", "\r", "\n\n", " \n"])
    broken.write(end=end)
    return f"lines end with {end!r}", same(broken.truth)


def other_encoding(broken: Broken) -> tuple[str, Judge]:
    name = broken.random.choice(["utf-8-sig", "utf-16", "utf-32", "cp500"])
    broken.write(encoding=name)
    return f"encoded as {name}", same(broken.truth)


def labels_from_zero(broken: Broken) -> tuple[str, Judge]:
    at = broken.column(LABELS)
    for row in broken.cells[broken.first :]:
        row[at] = str(int(row[at]) - 1)
    broken.write()
    if broken.free:  # any numbers will do, and class names follow them
        lowest = min(int(row[at]) for row in broken.cells[broken.first :])
        return "labels one less", refused() if lowest < 0 else literal(broken)
    return "labels one less", refused()


def bad_label(broken: Broken) -> tuple[str, Judge]:
    value = broken.random.choice(["-1", "nan", "", "1.5", "one", "1e3", "99999999999999999999", "0x10", "True"])
    row, at = broken.line(), broken.column(LABELS)
    broken.cells[row][at] = value
    broken.write()
    return f"line {row + 1}: label {value!r}", literal(broken) if value == "1e3" and broken.free else refused()


def bad_edge(broken: Broken) -> tuple[str, Judge]:
    value = broken.random.choice(["nan", "inf", "-inf", "1e400", "20px", "-50", "5000", "1e18", "None"])
    row, at = broken.line(), broken.column(EDGES)
    broken.cells[row][at] = value
    broken.write()
    far = broken.table.columns[at] in ("width", "height", "x_2", "y_2") and value in ("5000", "1e18")
    return f"line {row + 1}: {broken.table.columns[at]} {value!r}", literal(broken) if far else refused()


def reversed_box(broken: Broken) -> tuple[str, Judge]:
    row = broken.line()
    if broken.role == "csv":
        cells = broken.cells[row]
        cells[5], cells[7] = cells[7], cells[5]
    else:
        broken.cells[row][3] = f"-{broken.cells[row][3]}"
    broken.write()
    return f"line {row + 1}: a box from right to left", refused()


def leading_out(broken: Broken) -> tuple[str, Judge]:
    row, at = broken.line(), broken.column(("path",))
    path = broken.cells[row][at]
    value = broken.random.choice([f"../{path}", f"/{path}", f"a/../../{path}", f"C:\\{path}", "/etc/hostname", "~/" + path])
    broken.cells[row][at] = value
    broken.write()
    inside = value.startswith("~") or broken.role == "paths"  # CUB's paths begin in a folder of the data set
    return f"line {row + 1}: path {value!r}", either(same(broken.truth), part(broken.truth)) if inside else refused()


def blank_in_name(broken: Broken) -> tuple[str, Judge]:
    row, at = broken.line(), broken.column(("path", "class_name"))
    before = broken.cells[row][at]
    after = before.replace("_", " ") if "_" in before else before.replace(".", " .", 1)
    broken.cells[row][at] = after
    if broken.role != "classes":
        old = next(path for path in broken.layout.images.values() if str(path).endswith(before))
        new = str(old).removesuffix(before) + after
        type(old)(new).parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    broken.write()
    return f"line {row + 1}: {before!r} is {after!r}", either(same(broken.truth), content_or_name(broken))


def content_or_name(broken: Broken) -> Judge:
    """A path that is an id, or that names a class, has changed with the file: pictures, labels, splits and boxes have not."""

    def judge(read: tuple[Snapshot, list[str]]) -> str:
        kept = [at for at in range(PIXELS + 1) if at != CLASS_NAME]
        found, known = (sorted(str([row[at] for at in kept]) for row in rows.values()) for rows in (read[0], broken.truth))
        names = {row[CLASS_NAME] for row in read[0].values()}
        whole = {row[CLASS_NAME] for row in broken.truth.values()}
        short = [name for name in names - whole if any(one.startswith(name) for one in whole)]
        return "" if found == known and not short else f"names or images are cut: {short or 'images differ'}"

    return judge


def header_changed(broken: Broken) -> tuple[str, Judge]:
    if not broken.table.header:
        broken.cells.insert(0, list(broken.table.columns))
        broken.write()
        return "a header where there is none", same(broken.truth)
    how = broken.random.choice(["no header", "columns in another order", "a column by another name", "a column less"])
    column = broken.random.randrange(len(broken.table.columns))
    if how == "no header":
        del broken.cells[0]
    elif how == "columns in another order":
        order = broken.random.sample(range(len(broken.table.columns)), len(broken.table.columns))
        broken.cells = [[row[at] for at in order] for row in broken.cells]
    elif how == "a column by another name":
        broken.cells[0][column] += "_"
    else:
        broken.cells = [row[:column] + row[column + 1 :] for row in broken.cells]
    broken.write()
    return f"{how} ({broken.table.columns[column]})", either(same(broken.truth), less(broken.truth, BOX, 6))


def emptied(broken: Broken) -> tuple[str, Judge]:
    how = broken.random.choice(["empty", "a folder", "missing", "zeros", "blanks"])
    data = broken.table.path.read_bytes()
    broken.table.path.unlink()
    if how == "a folder":
        broken.table.path.mkdir()
    elif how != "missing":
        broken.table.path.write_bytes({"empty": b"", "zeros": bytes(len(data)), "blanks": b" \n" * 9}[how])
    optional = less(broken.truth, *OPTIONAL.get(broken.role, ()))
    if broken.role == "classes":
        return how, either(same(broken.truth), optional)
    return how, either(optional, content(broken.truth)) if broken.role in OPTIONAL or broken.role == "paths" else refused()


def lost_columns(broken: Broken) -> tuple[str, Judge]:
    row = broken.line()
    how = broken.random.choice(["a cell less", "a cell more", "a quotation mark", "a null byte"])
    cells = broken.cells[row]
    if how == "a cell less":
        cells.pop()
    elif how == "a cell more":
        cells.append("7")
    else:
        cells[1] = ('"' if how == "a quotation mark" else "\0") + cells[1]
    broken.write()
    more = (same(broken.truth),) if how == "a cell more" else ()
    return f"line {row + 1}: {how}", either(*more, said(part(broken.truth)), broken.lacking())


CHANGES: tuple[tuple[Change, tuple[str, ...]], ...] = (
    *((change, ()) for change in (delete_line, double_line, double_id, exchange, cut_short, other_separator)),
    *((change, ()) for change in (other_lines, other_encoding, header_changed, emptied, lost_columns)),
    *((change, ("labels", "csv", "train", "test")) for change in (labels_from_zero, bad_label)),
    *((change, ("boxes", "csv")) for change in (bad_edge, reversed_box)),
    (leading_out, ("paths", "csv", "train", "test")),
    (blank_in_name, ("paths", "classes", "csv", "train", "test")),
)
