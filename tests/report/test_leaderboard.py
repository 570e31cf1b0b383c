"""Leaderboards: the order of rows, what is best, and what is marked."""

import json
from pathlib import Path

import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.report.tables.leaderboard import Rows, read_leaderboards
from tests.paths import ROOT

BOARD = ROOT / "results" / "leaderboard" / "planted-v1"


def test_methods_that_follow_the_reference_stand_first_and_only_they_are_best() -> None:
    rows = Rows.read(BOARD)
    names = [*rows.rows]
    assert rows.blind == {"lafam", "centre"}
    assert {*names[-2:]} == rows.blind
    means = [row["summary"]["means"]["causal_agreement"]["mean"] for row in rows.rows.values()]
    assert means[:-2] == sorted(means[:-2], reverse=True)
    table = rows.table
    assert table.columns[0].label == "causal agreement ↑"
    assert [name for name, cells in table.rows if cells[0].best] == names[:1]
    assert not any(cell.best or cell.tied for name, cells in table.rows if name in rows.blind for cell in cells)
    assert dict(table.rows)["lafam"][-1].text == "blind"


def test_a_method_with_undefined_values_is_compared_by_those_of_random_maps(tmp_path: Path) -> None:
    (board := tmp_path / "leaderboard" / "planted-v1").mkdir(parents=True)
    row = json.loads(json.dumps(read_json(BOARD / "sfam.json", "")))
    row["values"]["causal_agreement"][0] = None
    write_json(board / "sfam.json", row)
    (rows,) = read_leaderboards(tmp_path / "leaderboard")
    filled = rows.filled("causal_agreement")[:, 0].tolist()
    assert filled == [row["chance"]["causal_agreement"][0], *row["values"]["causal_agreement"][1:]]


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no leaderboard"):
        read_leaderboards(tmp_path)
