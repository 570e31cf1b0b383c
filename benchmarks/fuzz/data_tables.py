"""Broken tables: lines deleted, doubled, cut and exchanged, other separators, encodings, headers and values."""

from benchmarks.fuzz.broken_table import OPTIONAL, Broken, Change, literal
from benchmarks.fuzz.expected import BOX, Judge, content, either, less, part, refused, said, same


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
    """Exchange what two lines of different classes say, which shows where labels are exchanged."""
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
    return how, either(
        optional, content(broken.truth)
    ) if broken.role in OPTIONAL or broken.role == "paths" else refused()


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


CHANGES: tuple[Change, ...] = (delete_line, double_line, double_id, exchange, cut_short, other_separator)
CHANGES += (other_lines, other_encoding, header_changed, emptied, lost_columns)
