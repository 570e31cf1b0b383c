"""Numbered tables out of stored runs: what they show, what they refuse, and that the committed ones are true."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.report.keep import keep_run
from sfam_bench.report.paper import Agreement, Metrics, Models, write_paper
from sfam_bench.report.stored import Stored
from sfam_bench.report.tables.tables import Cell, Table
from tests.paths import ROOT
from tests.report.test_models import PUBLISHED, trained

TABLES = sorted((ROOT / "conf" / "table").glob("*.yaml"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, fake_runs: list[Path]) -> Stored:
    root = tmp_path_factory.mktemp("records")
    for name, run in zip(("cub-frozen", "cub-tuned"), fake_runs, strict=True):
        keep_run(run, root / name)
    keep_run(trained(root / "made"), root / "train-cub", False)
    trained(root / "published", published=PUBLISHED)
    return Stored(root)


def column(table: Table, label: str) -> dict[str, Cell]:
    (place,) = (number for number, column in enumerate(table.columns) if column.label.startswith(label))
    return {name: cells[place] for name, cells in table.rows}


def test_metrics_stand_side_by_side(stored: Stored) -> None:
    sheet = Metrics("Localisation", {"CUB": ["cub-frozen"]}, ["deletion_mean_colour", "energy_pointing_*"])(stored)
    assert [table.title for table in sheet.tables] == ["CUB: Faithfulness", "CUB: Localisation", "Flagged pairs"]
    means = stored.run("cub-frozen").means.set_index(["explainer", "metric"])
    shown = column(sheet.tables[0], "deletion AUC (mean colour) ↓")
    for name in ("sfam", "lafam"):
        assert shown[name].text == f"{means.loc[(name, 'deletion_mean_colour'), 'mean']:.3f}"
    assert sheet.tables[1].columns[0].note == "n = 40; 8 classes; marks: 38 shared pairs, 8 classes; chance 0.400"
    assert "git" in dict(sheet.protocol)["cub-frozen"]
    assert "pairs 40" in dict(sheet.protocol)["cub-frozen"]


def test_runs_stand_side_by_side_and_are_called_by_what_tells_them_apart(stored: Stored) -> None:
    sheet = Metrics("Faithfulness", {"cub": ["cub-frozen", "cub-tuned"]}, ["deletion_mean_colour"], "runs")(stored)
    table, left_out = sheet.tables
    assert table.title == "cub: deletion AUC (mean colour) ↓"
    assert [each.label for each in table.columns] == ["frozen", "tuned"]
    assert table.blind == {"lafam", "chance"}
    own = stored.run("cub-tuned").means.set_index(["explainer", "metric"]).loc[("sfam", "deletion_mean_colour")]
    assert column(table, "tuned")["sfam"].text == f"{own['mean']:.3f}"
    assert {name: cells[0].text for name, cells in left_out.rows} == {"cub-frozen": "40", "cub-tuned": "40"}


def test_the_best_is_the_best_of_those_shown(stored: Stored) -> None:
    whole = Metrics("x", {"cub": ["cub-frozen"]}, ["insertion_mean_colour"])(stored).tables[0]
    (best,) = (name for name, (cell,) in whole.rows if cell.best)
    others = [name for name, _ in whole.rows if name != best]
    part = Metrics("x", {"cub": ["cub-frozen"]}, ["insertion_mean_colour"], explainers=others)(stored).tables[0]
    assert [name for name, _ in part.rows] == others
    assert sum(cell.best for _, (cell,) in part.rows) == 1


def test_a_published_figure_is_judged_only_where_it_may_be(stored: Stored) -> None:
    alone, beside = (Models("Models", [name])(stored) for name in ("train-cub", "published"))
    assert len(alone.tables) == 1
    assert beside.tables[1].title.endswith("published")
    verdict = column(beside.tables[1], "verdict")
    assert all(cell.text.startswith("not judged: a part of the data") for cell in verdict.values())


def test_metrics_are_weighed(stored: Stored) -> None:
    sheet = Agreement("Agreement", ["cub-frozen", "cub-tuned"])(stored)
    assert set(sheet.frames) == {"tells", "ranks", "agreement"}
    assert all("mean ranks" not in table.title for table in sheet.tables)


def test_every_format_prints_the_best_bold_and_marks_the_tied(stored: Stored, tmp_path: Path) -> None:
    table = Metrics("Deletion", {"cub": ["cub-frozen"]}, ["deletion_mean_colour"])
    paths = write_paper(stored, {"table_2": table}, {}, tmp_path, document=True)
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    assert names == {*(f"tables/table_2.{kind}" for kind in ("md", "tex", "html", "csv")), "paper.tex"}
    cells = column(table(stored).tables[0], "deletion")
    best = {cell.text for cell in cells.values() if cell.best}
    assert best
    texts = {kind: (tmp_path / "tables" / f"table_2.{kind}").read_text() for kind in ("md", "tex", "html")}
    for cell in cells.values():
        assert (f"**{cell.text}** {cell.interval}" in texts["md"]) == cell.best
        assert (rf"\textbf{{{cell.text}}}" in texts["tex"]) == (cell.text in best)
        assert (f"<b>{cell.text}</b>" in texts["html"]) == (cell.text in best)
        assert (f"{cell.text} {cell.interval} ≈" in texts["md"]) == cell.tied
    assert r"\numbered{2}\input{tables/table_2}" in (tmp_path / "paper.tex").read_text()


def test_nothing_is_written_where_one_table_cannot_be_made(stored: Stored, tmp_path: Path) -> None:
    sound = Metrics("Deletion", {"cub": ["cub-frozen"]}, ["deletion_mean_colour"])
    absent = Metrics("Deletion", {"cub": ["gone"]}, ["deletion_mean_colour"])
    with pytest.raises(UserError, match=r"no stored run 'gone' in .* it has cub-frozen, cub-tuned"):
        write_paper(stored, {"table_1": sound, "table_2": absent}, {}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Metrics("x", {"a": ["cub-frozen"]}, ["accuracy"]), "has none of the metrics accuracy"),
        (Metrics("x", {"a": ["cub-frozen"]}, ["deletion_mean_colour", "road*"]), "'x' has a metric road\\*"),
        (Metrics("x", {"a": ["cub-frozen"]}, ["deletion_mean_colour"], explainers=["zhu"]), "has no explainer zhu"),
        (Metrics("x", {"a": ["../records/cub-frozen"]}, ["deletion_mean_colour"]), "no stored run"),
        (Models("x", ["cub-frozen"]), "is not a finished training"),
    ],
)
def test_what_is_not_there_is_named(stored: Stored, table: Callable[[Stored], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(stored)


def test_a_drawing_is_saved_in_both_formats(stored: Stored, tmp_path: Path) -> None:
    class Blank:
        caption = "50 % & nothing"

        def __call__(self, stored: Stored) -> Figure:
            return Figure(figsize=(1, 1))

    paths = write_paper(stored, {}, {"blank": Blank()}, tmp_path, document=True)
    assert {path.name for path in paths} == {"blank.png", "blank.svg", "paper.tex"}
    assert r"\caption{50 \% \& nothing}" in (tmp_path / "paper.tex").read_text()


@pytest.mark.parametrize(
    "path",
    [TABLES[0], *(pytest.param(path, marks=pytest.mark.slow) for path in TABLES[1:])],
    ids=lambda path: path.stem,
)
def test_a_committed_table_is_what_the_committed_records_give(path: Path, tmp_path: Path) -> None:
    ((name, config),) = yaml.safe_load(path.read_text()).items()
    assert name == f"table_{path.stem.partition('_')[0]}"
    sheet = build(config)(Stored(ROOT / "results" / "records"))
    for made in sheet.write(tmp_path, name):
        there = ROOT / "results" / "tables" / made.name
        if made.suffix == ".csv":
            pd.testing.assert_frame_equal(pd.read_csv(made), pd.read_csv(there), rtol=1e-4)
        else:
            assert there.is_file()


def test_the_script_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['experiments/paper.py', 'table=[1_models]', f'out={sys.argv[1]}']; "
        "runpy.run_path('experiments/paper.py', run_name='__main__'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tables" / "table_1.md").is_file()
