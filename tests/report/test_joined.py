"""Runs of different methods, or of different pairs, shown as one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.report.keep import keep_run
from sfam_bench.report.paper import Metrics
from sfam_bench.report.stored import Stored
from sfam_bench.runs.joined import join_runs
from sfam_bench.runs.matrix import FACTS, Matrix
from sfam_bench.runs.reader import Run, read_records, read_run
from sfam_bench.runs.store import RunStore
from tests.report.conftest import EXPLAINERS, METRICS, make_pairs

FEW = 15
COST = {"milliseconds": 2.0, "forwards": 1.0}


def write_part(root: Path, records: pd.DataFrame, explainers: list[str], rows: slice = slice(None)) -> Path:
    """A run of some methods on some pairs."""
    pairs = make_pairs()[rows]
    facts = {
        **{"kind": "evaluate", "dataset": "cub", "model": "lite0 frozen", "target": "similarity", "metrics": METRICS},
        **{"explainers": explainers, "blind": [name for name in explainers if name in ("lafam", "chance")]},
        "cost": dict.fromkeys(explainers, COST),
    }
    store = RunStore.create(root, {"explainers": explainers}, facts)
    store.write_pairs(pairs)
    own = records["explainer"].isin([*explainers, FACTS]) & records["query_id"].isin(pairs["query_id"])
    store.write_chunk(0, records[own])
    store.write_cost(0, len(pairs), dict.fromkeys(explainers, 0.002 * len(pairs)), 900.0)
    store.finish()
    return root


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, fake_run: Path) -> list[Path]:
    root, records, names = tmp_path_factory.mktemp("parts"), read_records(fake_run), [*EXPLAINERS]
    return [
        write_part(root / "costly", records, names[:1], slice(FEW)),
        write_part(root / "cheap", records, names[1:3]),
        write_part(root / "controls", records, names[3:]),
    ]


def test_joined_runs_have_the_values_of_the_whole(parts: list[Path], fake_run: Path) -> None:
    joined, whole = join_runs([*map(read_run, parts)]), read_run(fake_run)
    assert joined.matrix.pairs == whole.matrix.pairs
    assert joined.matrix.entries.keys() == whole.matrix.entries.keys()
    for key, values in whole.matrix.entries.items():
        count = FEW if key[1] == "sfam" else len(values)
        np.testing.assert_array_equal(joined.matrix.entries[key][:count], values[:count])
        assert np.isnan(joined.matrix.entries[key][count:]).all()
        flags, wanted = joined.matrix.flagged(key), whole.matrix.flagged(key)
        assert {name: rows[:count].tolist() for name, rows in flags.items() if rows[:count].any()} == {
            name: rows[:count].tolist() for name, rows in wanted.items() if rows[:count].any()
        }
        assert not any(rows[count:].any() for rows in flags.values())
    assert sorted(joined.manifest["explainers"]) == sorted(EXPLAINERS)
    assert sorted(joined.manifest["blind"]) == ["chance", "lafam"]
    assert joined.manifest["core_hours"] == 0.75
    first, *others = map(read_run, parts)
    unknown = replace(first, manifest={**first.manifest, "core_hours": None})  # merged after a task was killed
    assert join_runs([unknown, *others]).manifest["core_hours"] is None


def test_runs_of_other_pairs_are_joined_too(tmp_path: Path, fake_run: Path) -> None:
    records, whole = read_records(fake_run), read_run(fake_run)
    halves = [
        write_part(tmp_path / f"{half.start}", records, ["sfam"], half) for half in (slice(0, FEW), slice(FEW, 40))
    ]
    rest = write_part(tmp_path / "rest", records, [*EXPLAINERS][1:])
    joined = join_runs([read_run(path) for path in (*halves, rest)])
    for key in whole.matrix.columns:
        np.testing.assert_array_equal(joined.matrix.entries[key], whole.matrix.entries[key])
        assert joined.matrix.flagged(key).keys() == whole.matrix.flagged(key).keys()
    assert joined.manifest["cost"]["sfam"] == pytest.approx({**COST, "pairs": 40})
    other = read_run(halves[1])
    other = replace(other, manifest={**other.manifest, "explainer_settings": {"sfam": {"gamma": 2}}})
    first = read_run(halves[0])
    first = replace(first, manifest={**first.manifest, "explainer_settings": {"sfam": {"gamma": 1}}})
    with pytest.raises(UserError, match="have sfam with other settings"):
        join_runs([first, other, read_run(rest)])


def test_a_table_shows_them_as_one_with_the_pairs_and_cost_of_each(parts: list[Path], tmp_path: Path) -> None:
    for part in parts:
        keep_run(part, tmp_path / part.name)
    names = [part.name for part in parts]
    table = Metrics("All", {"CUB": names}, ["deletion_mean_colour", "cost_milliseconds"], "methods")
    sheet = table(Stored(tmp_path))
    faithfulness, costs = sheet.tables[:2]
    assert {name for name, _ in faithfulness.rows} == {*EXPLAINERS}
    shown = {name: cells[0] for name, cells in faithfulness.rows}
    assert f"(n = {FEW - 1})" in shown["sfam"].interval  # one is flagged
    assert "not compared, too few pairs: sfam" in faithfulness.columns[0].note
    assert {name: cells[0].interval for name, cells in costs.rows if name in ("sfam", "lafam")} == {
        "sfam": f"(n = {FEW})",
        "lafam": "",
    }
    lines = dict(sheet.protocol)
    assert [*lines] == names
    assert f"pairs {FEW}" in lines["costly"]
    assert all("cost 0.25 core hours" in line for line in lines.values())


def test_differences_follow_that_hold_together(fake_run: Path, tmp_path: Path) -> None:
    keep_run(fake_run, tmp_path / "fake")
    metrics = ["insertion_mean_colour", "deletion_mean_colour"]
    table = Metrics("All", {"CUB": ["fake"]}, metrics, differences=metrics)(Stored(tmp_path)).tables[1]
    assert table.title == "fake: difference to lafam"
    assert "for the 8 comparisons shown" in table.note
    assert [column.label for column in table.columns] == [
        "deletion AUC (mean colour) ↓",
        "insertion AUC (mean colour) ↑",
    ]
    for cell, sign in zip(dict(table.rows)["exact"], "-+", strict=True):
        assert cell.best
        assert cell.text.startswith(sign)
    assert not any(cell.best for cell in dict(table.rows)["chance"])
    for differences, to, absent in ((["road"], "lafam", "has road: evaluate"), (metrics, "gam", "has no method gam")):
        with pytest.raises(UserError, match=absent):
            Metrics("All", {"CUB": ["fake"]}, metrics, differences=differences, to=to)(Stored(tmp_path))


def other_pairs(run: Run) -> Run:
    return replace(run, matrix=replace(run.matrix, pairs=[("other.jpg", "r.jpg"), *run.matrix.pairs[1:]]))


def other_scores(run: Run) -> Run:
    entries = dict(run.matrix.entries)
    entries["s_full", FACTS] = entries["s_full", FACTS] + 0.1
    return replace(run, matrix=replace(run.matrix, entries=entries))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_pairs, "other.jpg with r.jpg is a pair of the first alone"),
        (other_scores, "s_full of a pair differs"),
        (lambda run: replace(run, manifest={**run.manifest, "split": "train"}), "their split differs"),
        (lambda run: replace(run, matrix=rename(run.matrix, "sfam", "grad_cam")), "have grad_cam on the same pair"),
    ],
)
def test_what_cannot_be_joined_is_refused(parts: list[Path], change: Callable[[Run], Run], message: str) -> None:
    costly, cheap, _ = map(read_run, parts)
    with pytest.raises(UserError, match=message):
        join_runs([change(costly), cheap])


def rename(matrix: Matrix, old: str, new: str) -> Matrix:
    entries, codes = (
        {(metric, new if name == old else name): array for (metric, name), array in found.items()}
        for found in (matrix.entries, matrix.codes)
    )
    return replace(matrix, entries=entries, codes=codes)
