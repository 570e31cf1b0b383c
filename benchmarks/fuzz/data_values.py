"""Tables with values that cannot be: labels, boxes, paths and names."""

from benchmarks.fuzz.broken_table import Broken, Change, literal
from benchmarks.fuzz.expected import CLASS_NAME, PIXELS, Judge, either, part, refused, same
from benchmarks.fuzz.layouts import Snapshot

LABELS = ("label",)
EDGES = ("x", "y", "width", "height", "x_1", "y_1", "x_2", "y_2")


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
    value = broken.random.choice(
        [f"../{path}", f"/{path}", f"a/../../{path}", f"C:\\{path}", "/etc/hostname", "~/" + path]
    )
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
    """The path, which may be an id, has changed with the file; pictures, labels, splits and boxes have not."""

    def judge(read: tuple[Snapshot, list[str]]) -> str:
        kept = [at for at in range(PIXELS + 1) if at != CLASS_NAME]
        found, known = (
            sorted(str([row[at] for at in kept]) for row in rows.values()) for rows in (read[0], broken.truth)
        )
        names = {row[CLASS_NAME] for row in read[0].values()}
        whole = {row[CLASS_NAME] for row in broken.truth.values()}
        short = [name for name in names - whole if any(one.startswith(name) for one in whole)]
        return "" if found == known and not short else f"names or images are cut: {short or 'images differ'}"

    return judge


# and the tables that have such values
CHANGES: tuple[tuple[Change, tuple[str, ...]], ...] = (
    *((change, ("labels", "csv", "train", "test")) for change in (labels_from_zero, bad_label)),
    *((change, ("boxes", "csv")) for change in (bad_edge, reversed_box)),
    (leading_out, ("paths", "csv", "train", "test")),
    (blank_in_name, ("paths", "classes", "csv", "train", "test")),
)
