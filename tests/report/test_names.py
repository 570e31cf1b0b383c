"""File names of a report, CSV that no spreadsheet computes, and what a killed report leaves."""

import csv
import io
import os
from pathlib import Path

import pandas as pd
import pytest

from sfam_bench.core.files import host, temporary_folder
from sfam_bench.report.names import Slugs, slug
from sfam_bench.report.tables import formats
from sfam_bench.report.writer import write_report
from tests.report.conftest import make_run


def test_names_that_slug_alike_have_files_of_their_own() -> None:
    named, alike = Slugs(), [("cub", "lite0 frozen"), ("cub", "lite0-frozen"), ("cub lite0", "frozen"), ("cub", "x")]
    found = [named(*names) for names in alike]
    assert found == ["cub-lite0-frozen", "cub-lite0-frozen--2", "cub-lite0-frozen--3", "cub-x"]
    assert [named(*names) for names in alike] == found
    assert found[0] == slug(*alike[0])


def test_long_names_are_cut_and_stay_apart() -> None:
    named = Slugs()
    found = {named("a" * 400 + end) for end in "bc"}
    assert len(found) == 2
    assert all(len(name) < 200 for name in found)


@pytest.mark.slow
def test_models_whose_names_slug_alike_are_all_reported(tmp_path: Path) -> None:
    names = ["lite0 frozen", "lite0-frozen"]
    runs = [make_run(tmp_path / f"run{number}", name, number) for number, name in enumerate(names)]
    write_report(runs, tmp_path / "out")
    files = {path.stem for path in (tmp_path / "out").glob("table-*.csv")}
    anchor = "cub-lite0-frozen-similarity"
    assert files == {f"table-{anchor}{end}" for end in ("", "--2")}
    tables = [pd.read_csv(tmp_path / "out" / f"table-{anchor}{end}.csv") for end in ("", "--2")]
    assert [table["model"].unique().tolist() for table in tables] == [[name] for name in names]
    page = (tmp_path / "out" / "index.html").read_text()
    for end in ("", "--2"):
        assert page.count(f'id="{anchor}{end}"') == 1
        assert len(list((tmp_path / "out").glob(f"overview-{anchor}{end}.png"))) == 1


FORMULAS = ["=1+2", "+cmd", "@sum", "-x", " =1", "\t=1"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_text_that_begins_like_a_formula_is_escaped(cell: str) -> None:
    frame = pd.DataFrame({cell: ["a"], "name": pd.Categorical([cell]), "value": [-1.5]})
    head, row = csv.reader(io.StringIO(formats.to_csv(frame)))
    assert head == [f"'{cell}", "name", "value"]
    assert row == ["a", f"'{cell}", "-1.5"]


def test_numbers_and_empty_cells_stay_as_they_are() -> None:
    frame = pd.DataFrame({"name": ["-3", "+2.5e3", None, "sfam"], "value": [-1.0, float("nan"), 2.0, 1e-9]})
    assert formats.to_csv(frame) == frame.to_csv(index=False)


def test_what_a_killed_report_left_is_removed_by_the_next_and_a_living_one_is_not_touched(tmp_path: Path) -> None:
    dead = tmp_path / f".out.{host()}.{2**22 + 1}.ab12.tmp"  # beyond the largest process id
    living = tmp_path / f".out.{host()}.{os.getppid()}.ab12.tmp"
    other = tmp_path / f".outer.{host()}.{2**22 + 1}.ab12.tmp"
    for path in (dead, living, other):
        (path / "new").mkdir(parents=True)
    with temporary_folder(tmp_path / "out") as fresh:
        assert fresh.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == {living.name, other.name, fresh.name}
    assert not fresh.exists()
