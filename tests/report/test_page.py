"""The report as a whole: one page that loads nothing, escapes everything, and is never half there."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from sfam_bench.core.errors import UserError
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.page import page
from sfam_bench.report.tables import meta
from sfam_bench.report.tables.formats import terminal_table
from sfam_bench.report.tables.tables import Cell, Column, Report, Table
from sfam_bench.report.writer import write_report
from sfam_bench.runs.chunks import chunk_path
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.store import RunStore
from tests.report.conftest import rewrite_records

HOSTILE = "<script>alert('name')</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags close in order, and collects what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str | None] = []  # types of those that are no data
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "script" and dict(attrs).get("type") != "application/json":
            self.scripts.append(dict(attrs).get("type"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def written(fake_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("reports") / "report"
    return out, write_report(fake_runs, out)


def test_everything_is_written(written: tuple[Path, Report]) -> None:
    out, table = written[0], written[1].summary
    names = {path.name for path in out.iterdir()}
    for model in ("lite0-frozen", "lite0-fine-tuned"):
        stem = f"cub-{model}-similarity"
        tables = {f"table-{stem}.{suffix}" for suffix in ("md", "tex", "csv")}
        assert names >= tables | {f"overview-{stem}.png", f"overview-{stem}.svg", f"gallery-{stem}-1.png"}
    assert names >= {"summary.csv", "differences.csv", "index.html"}
    assert list(out.parent.iterdir()) == [out]
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "summary.csv", keep_default_na=True)[["explainer", "metric", "mean", "count"]],
        table[["explainer", "metric", "mean", "count"]],
        check_dtype=False,
    )
    assert set(table["model"]) == {"lite0 frozen", "lite0 fine-tuned"}


def test_the_page_is_whole_and_loads_nothing(written: tuple[Path, Report]) -> None:
    out, _ = written
    reader = read((out / "index.html").read_text())
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    assert "@import" not in reader.text
    assert "url(" not in reader.text
    assert reader.scripts == [None]  # its own, which the policy names by its hash
    assert "default-src &#39;none&#39;; img-src data:" in (out / "index.html").read_text()
    assert "link" not in reader.tags
    assert (
        reader.tags.count("img") == 8
    )  # of each run: headlines, means, agreement of its metrics, critical differences
    anchors = {link for link in reader.links if link.startswith("#")}
    assert all(f'id="{anchor[1:]}"' in (out / "index.html").read_text() for anchor in anchors)
    assert (out / "index.html").stat().st_size < page.LIMIT
    titles = ("Comparison of models", "difference to lafam", meta.TITLE)
    for words in (*titles, "recall@1 0.850", "prefers-color-scheme", "3f2a", "Pairs"):
        assert words in reader.text


def test_names_are_text() -> None:
    table = Table(
        HOSTILE, (Column(HOSTILE, HOSTILE, f'"{HOSTILE}'),), ((HOSTILE, (Cell(HOSTILE, hint=f'"{HOSTILE}'),)),)
    )
    section = page.Section(HOSTILE, "a", [(HOSTILE, HOSTILE)], [table], [], table, [])
    reader = read(
        page.render_page([section], [table], Catalogue({HOSTILE: {"label": HOSTILE, "meaning": HOSTILE}}), [HOSTILE])
    )
    assert reader.scripts == [None]
    assert HOSTILE in reader.text


@pytest.mark.slow
def test_hostile_names_and_passes_are_text(tmp_path: Path, checked_run: Path) -> None:
    copy = Path(shutil.copytree(checked_run, tmp_path / "run"))
    for number in range(2):
        frame = pd.read_parquet(chunk_path(copy, "records", number)).astype({"explainer": str})
        rewrite_records(copy, number, frame.assign(explainer=frame["explainer"].replace("exact", HOSTILE)))
    manifest = read_manifest(copy)
    manifest["passes"] = {"mode": f"{HOSTILE}\n\\input|", "score_differences": {}}
    RunStore(copy).write_manifest(manifest)
    write_report([copy], tmp_path / "out")
    reader = read((tmp_path / "out" / "index.html").read_text())
    assert reader.scripts == [None]
    assert reader.text.count(HOSTILE) > 1
    (tex,), (md,) = ((tmp_path / "out").glob(f"table-*.{suffix}") for suffix in ("tex", "md"))
    assert f"% Passes: {HOSTILE} \\input|\n" in tex.read_text()
    assert "- Passes: &lt;script>alert('name')&lt;/script> \\input\\|\n" in md.read_text()


def test_pictures_that_do_not_fit_are_named_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.effect_noise((300, 300), 90).save(tmp_path / "gallery-1.png")
    monkeypatch.setattr(page, "LIMIT", page.MARGIN + 1000)
    section = page.Section("t", "a", [], [], [], None, [(tmp_path / "gallery-1.png", "Maps")])
    text = page.render_page([section], [], Catalogue({}), [])
    assert "open the file gallery-1.png" in text
    assert "data:image" not in text


@pytest.mark.slow
def test_a_report_replaces_a_report_and_keeps_hydras_files(
    fake_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / ".hydra").mkdir(parents=True)
    (out / "report.log").write_text("log")
    (out / "table-stale.md").touch()
    write_report([fake_run], out)
    assert (out / ".hydra").is_dir()
    assert (out / "report.log").read_text() == "log"
    assert not (out / "table-stale.md").exists()


def test_foreign_files_are_not_touched(fake_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis\.tex, which is not part of a report"):
        write_report([fake_run], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_report_that_fails_leaves_the_old_one(
    fake_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("old")
    monkeypatch.setattr(page, "render_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report([fake_run], out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "index.html"]
    assert (out / "index.html").read_text() == "old"


def test_two_runs_of_the_same_model_are_not_mixed(fake_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both have cub · lite0 frozen · similarity"):
        write_report([fake_run, fake_run], tmp_path / "out")
    with pytest.raises(UserError, match="no run to report"):
        write_report([], tmp_path / "out")


CURVES = (
    "5 random curves recomputed in full (225 points) as a check: area error median 0.003, 95 % 0.0043, at most 0.0045"
)


@pytest.mark.slow
def test_the_error_of_areas_is_said_and_no_column(fake_run: Path, checked_run: Path, tmp_path: Path) -> None:
    plain = write_report([fake_run], tmp_path / "without")
    (said,) = (dict(lines) for lines in plain.protocols.values())
    assert said["Curves"].startswith("no curve was recomputed in full (225 points)")
    assert "Passes" not in said
    assert "Curves: no curve was recomputed" in terminal_table(plain)
    report = write_report([checked_run], tmp_path / "with")
    for path in (tmp_path / "without").glob("*.*"):
        other = tmp_path / "with" / path.name
        if path.suffix not in (".html", ".md", ".tex"):
            assert other.read_bytes() == path.read_bytes(), path.name  # the numbers and pictures stay as they were
            continue
        if path.stem == "meta":
            assert other.read_text() == path.read_text()
            continue
        lines, others = path.read_text().splitlines(), other.read_text().splitlines()
        assert [line for line in lines if line not in others] == [line for line in lines if "no curve was" in line]
        new = " ".join(line for line in others if line not in lines)
        assert CURVES in new
        assert "openvino, batch 16, scores within 4e-07 of float32 eager" in new
        assert "area_error" not in other.read_text()
        assert "area_error" not in other.read_text()
    text = terminal_table(report, width=90)
    assert f"Curves: {CURVES} Passes: openvino, batch 16, scores within 4e-07" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 90


def test_reports_need_no_torch() -> None:
    code = "import sys, sfam_bench.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
