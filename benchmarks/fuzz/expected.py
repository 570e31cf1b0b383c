"""What may come of a broken data set that is accepted, as a judge of what was read of it and what was said."""

from collections.abc import Callable, Collection

from benchmarks.fuzz.layouts import Row, Snapshot

Read = tuple[Snapshot, list[str]]  # what was found, and the warnings
Judge = Callable[[Read], str]
LABEL, CLASS_NAME, SPLIT, BOX, POINTS, PIXELS, FOREGROUND, COLOURS = range(8)


def same(truth: Snapshot) -> Judge:
    """Nothing has changed."""
    return lambda read: difference(truth, read[0])


def refused() -> Judge:
    """It must not be accepted."""
    return lambda read: f"accepted ({len(read[0])} images)"


def said(judge: Judge) -> Judge:
    """As the other judge says, and something was said about it."""
    return lambda read: judge(read) or ("" if read[1] else "nothing was said")


def without(truth: Snapshot, names: Collection[str]) -> Judge:
    """These images are left out, which was said; the others are as they were."""
    return said(same({name: row for name, row in truth.items() if name not in names}))


def changed(truth: Snapshot, rows: dict[str, Row]) -> Judge:
    """These rows are others, as the file now says."""
    return same({**truth, **rows})


def less(truth: Snapshot, *columns: int) -> Judge:
    """Some images lack what these columns hold, which was said; all else is as it was."""

    def judge(read: Read) -> str:
        if read[0].keys() - truth.keys() or len(read[0]) < len(truth):
            return difference(truth, read[0])
        for name, row in read[0].items():
            for at, (now, before) in enumerate(zip(row, truth[name], strict=True)):
                if now != before and not (at in columns and (now is None or read[1])):
                    return difference(truth, read[0])
        return "" if read[1] else "something is left out, and nothing was said"

    return judge


def part(truth: Snapshot, *columns: int) -> Judge:
    """Some images are left out, or what these columns hold, which was said; what is there is as it was."""

    def judge(read: Read) -> str:
        rows = read[0].items()
        known = all(name in truth and alike(row, truth[name], columns) for name, row in rows)
        return "" if known and read[1] else difference(truth, read[0]) or "nothing was said"

    return judge


def shorter(truth: Snapshot) -> Judge:
    """Some images are left out, as the list now says; of the last, whose line may be cut, the box may be another."""

    def judge(read: Read) -> str:
        but = (BOX, FOREGROUND)
        rows = {name: row for name, row in read[0].items() if row != truth.get(name)}
        odd = [
            name for name, row in rows.items() if name not in truth or not alike(row, truth[name], but) or not row[BOX]
        ]
        return (
            difference({name: truth[name] for name in read[0] if name in truth}, read[0])
            if odd or len(rows) > 1
            else ""
        )

    return judge


def alike(row: Row, other: Row, but: Collection[int]) -> bool:
    """Whether two rows agree in all columns but these."""
    return all(a == b for at, (a, b) in enumerate(zip(row, other, strict=True)) if at not in but)


def content(truth: Snapshot) -> Judge:
    """The same pictures under the same labels and splits, whatever their ids are now, which was said."""
    key = (LABEL, SPLIT, PIXELS)

    def judge(read: Read) -> str:
        found, expected = (sorted(tuple(row[at] for at in key) for row in rows.values()) for rows in (read[0], truth))
        return "other pictures, labels or splits" if found != expected else "" if read[1] else "nothing was said"

    return judge


def either(*judges: Judge) -> Judge:
    """Right where one of these says so."""

    def judge(read: Read) -> str:
        found = [judge(read) for judge in judges]
        return "" if "" in found else found[0]

    return judge


def difference(truth: Snapshot, found: Snapshot) -> str:
    """The first difference, in words."""
    if lost := truth.keys() - found.keys():
        return f"{len(lost)} images are lost, first {min(lost)}"
    if more := found.keys() - truth.keys():
        return f"{len(more)} images too many, first {min(more)}"
    for name, row in truth.items():
        for what, now, before in zip(
            ("label", "class name", "split", "box", "keypoints", "pixels", "foreground", "colours"),
            found[name],
            row,
            strict=False,
        ):
            if now != before:
                return f"{what} of image {name} is {now}, expected {before}"
    return ""
