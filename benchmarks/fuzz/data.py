"""Broken folders of images, in every layout that is read."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.fuzz import data_files, data_tables, data_values, layouts
from benchmarks.fuzz.attempt import Attempt, Heard
from benchmarks.fuzz.broken_table import Broken, Change
from benchmarks.fuzz.expected import Judge, Read, same
from benchmarks.fuzz.layouts import Layout, Snapshot

Found = tuple[str, Judge, tuple[str, ...]]
Way = Callable[[Layout, Snapshot, Random], Found]


def unchanged(layout: Layout, truth: Snapshot, _: Random) -> Found:
    """Nothing is broken: each layout is read as it was made."""
    return "nothing", same(truth), ()


def in_table(layout: Layout, truth: Snapshot, random: Random, change: Change, roles: tuple[str, ...]) -> Found:
    """One of the tables of a layout is broken."""
    broken = Broken.of(layout, truth, random, roles)
    what, judge = change(broken)
    name = broken.table.path.name
    before = broken.table.path.with_suffix("").name
    rows = {cell for row in broken.cells for cell in row if len(cell) > 3} | {f"'{row[0]}'" for row in broken.cells}
    return (
        f"{name}: {what}",
        judge,
        (name, f"{before} at", f"{broken.table.path.parent}/", f"at {layout.home}", *sorted(rows - {""})),
    )


ROLES: dict[Callable[[Path], Layout], str] = {
    layouts.cub: "paths labels classes boxes",
    layouts.sop: "train",
    layouts.oml: "csv",
}
TABLES: tuple[tuple[Way, list[Callable[[Path], Layout]]], ...] = tuple(
    (
        partial(in_table, change=change, roles=roles),
        [make for make, has in ROLES.items() if not roles or set(roles) & set(has.split())],
    )
    for change, roles in (*((change, ()) for change in data_tables.CHANGES), *data_values.CHANGES)
)
LAYOUTS: tuple[tuple[Callable[[Path], Layout], Way], ...] = (
    *((make, way) for way, makes in TABLES for make in makes),
    *((make, data_files.image_file) for make in (layouts.cub, layouts.sop, layouts.oml, layouts.cars, layouts.own)),
    *((make, data_files.mask_file) for make in (layouts.cub, layouts.own, layouts.own)),
    *(
        (layouts.cars, way)
        for way in (data_files.mat_bytes,) * 4 + (data_files.mat_content,) * 4 + (data_files.mat_file,) * 2
    ),
    *((layouts.own, data_files.own_index) for _ in range(6)),
    *((layouts.cub, data_files.class_folders) for _ in range(2)),
    *((make, unchanged) for make in (layouts.cub, layouts.sop, layouts.oml, layouts.cars, layouts.own)),
)


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Break the data set of this number."""
    make, way = LAYOUTS[number * 37 % len(LAYOUTS)]
    layout = make(folder / "data")
    truth = layout.snapshot()
    what, judge, names = way(layout, truth, random)

    def read() -> Read:
        heard = Heard()
        logger = logging.getLogger("sfam_bench")
        logger.addHandler(heard)
        return layout.snapshot(), heard.lines

    return Attempt(f"{layout.name}: {what}", read, judge, names, sound=way is unchanged)
