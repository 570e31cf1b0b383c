"""What is written as LaTeX, compiled by a real TeX and read back out of the PDF."""

import re
import shutil
import subprocess
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables import formats, tables
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table
from sfam_bench.runs.reader import read_run
from sfam_bench.statistics import summarise
from tests.paths import ROOT

DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{lmodern,booktabs,graphicx}
\begin{document}
%s
\end{document}
"""
STORED = sorted((ROOT / "results" / "tables").glob("*.tex"))
NASTY = [
    *(
        "a & b",
        "50 % of it",
        "$x$",
        "# 1",
        "sfam_gamma",
        "{braces}",
        "~tilde",
        "hat^2",
        r"back\slash \input{x} \\",
        "<script>",
    ),
    *(
        "a|b",
        'so "called"',
        "≈ 3",
        "up ↑ down ↓",
        "dot · dot",
        "1\N{EN DASH}2 — 3",
        "café, übel, Ångström, Łódź",
        "d \N{MINUS SIGN} 1 ≤ 2 ≥ 3 → 4",
    ),
    *(
        "[exact]",
        "*",
        "a--b---c",
        "back`tick``",
        ",,low''",
        "!`?`",
        "<<>>",
        "a\tb\n\nc\x0cd",
        "%",
        "ﬁ 中 ע 😀 ħ",
        "cafe\u0301",
    ),
]
FOUND = {"a\tb\n\nc\x0cd": "a b c d", "ﬁ 中 ע 😀 ħ": "[U+FB01] [U+4E2D] [U+05E2] [U+1F600] [U+0127]"}
SAME = str.maketrans(
    {"\N{RIGHT SINGLE QUOTATION MARK}": "'", "⋅": "·", "ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff"}
)  # of type, not of what is said


@pytest.fixture(scope="module", autouse=True)
def _tex() -> None:
    missing = [tool for tool in ("pdflatex", "pdftotext", "kpsewhich") if shutil.which(tool) is None]
    missing = missing or [name for name in ("booktabs.sty", "lmodern.sty", "graphicx.sty") if not there(name)]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: tests/install.sh")


def there(style: str) -> bool:
    return subprocess.run(["kpsewhich", style], capture_output=True, check=False).returncode == 0


def compiled(text: str, folder: Path) -> tuple[str, str]:
    """The log of TeX, which must have found nothing wrong, and the text of the pages."""
    (folder / "page.tex").write_text(DOCUMENT % text, encoding="utf-8")
    flags = ["-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
    done = subprocess.run(["pdflatex", *flags, "page.tex"], cwd=folder, capture_output=True, check=False, timeout=300)
    log = (folder / "page.log").read_text(encoding="utf-8", errors="replace") if done.returncode == 0 else ""
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]
    read = subprocess.run(["pdftotext", "-layout", "page.pdf", "-"], cwd=folder, capture_output=True, check=True)
    return log, unicodedata.normalize("NFC", read.stdout.decode()).translate(SAME)


def wrong(log: str) -> list[str]:
    """Lines that stick out by more than 5 pt, and characters that the fonts lack."""
    wide = [
        line for line in log.splitlines() if (m := re.match(r"Overfull \\hbox \((.+?)pt", line)) and float(m[1]) > 5
    ]
    return [*wide, *re.findall(r"Missing character.*", log)]


def named(name: str) -> Table:
    cells = (Cell("-0.10", "[-0.20, 0.01]", best=True, tied=True), Cell(NOTHING))
    columns = (Column("deletion mean ↓", "n = 3; chance 0.4"), Column("[low], *star", "[n] = 60 of the 100"))
    return Table("Names", columns, ((name, cells),), "A note.")


def test_the_proof_itself_finds_what_is_wrong(tmp_path: Path) -> None:
    log, _ = compiled(r"\noindent\rule{500pt}{1pt} \font\old=cmr10 \old\char200", tmp_path)
    wide, lacking = wrong(log)
    assert wide.startswith("Overfull")
    assert lacking.startswith("Missing character")
    with pytest.raises(AssertionError, match="Undefined control sequence"):
        compiled(r"\nothing", tmp_path)


def test_names_print_as_they_are(tmp_path: Path) -> None:
    table = replace(
        named(""), rows=tuple((f"x{name}x" if name[0] not in "[*" else name, named("").rows[0][1]) for name in NASTY)
    )
    log, text = compiled(formats.to_latex("A title\n\nand more", [("Split %", "a\n\\undefined")], [table]), tmp_path)
    assert not wrong(log)
    for name in NASTY:
        shown = FOUND.get(name, unicodedata.normalize("NFC", name))
        assert (shown if name[0] in "[*" else f"x{shown}x") in text.replace("\n", " ")


@pytest.mark.parametrize("place", ["title", "note", "head", "label", "cell", "interval"])
def test_a_nasty_name_may_stand_anywhere(tmp_path: Path, place: str) -> None:
    parts, name = [], "name"
    for nasty in NASTY:
        cell = Cell(nasty if place == "cell" else "1", nasty if place == "interval" else "")
        column = Column(nasty if place == "label" else "label", nasty if place == "label" else "")
        title, note, head = (nasty if place == this else "text" for this in ("title", "note", "head"))
        parts.append(Table(title, (column,), ((name, (cell,)),), note, head=head))
    log, _ = compiled(formats.to_latex("", [], parts).replace("[htbp]", "[!h]") + r"\clearpage", tmp_path)
    assert not wrong(log)


def test_all_letters_up_to_z_with_caron_compile(tmp_path: Path) -> None:
    signs = [chr(code) for code in [*range(0x20, 0x180), *range(0x2010, 0x2040)]]
    log, _ = compiled("\n\n".join(formats.escape_latex(f"x{sign}x") for sign in signs), tmp_path)
    assert not wrong(log)


def test_means_of_a_run(tmp_path: Path, fake_run: Path) -> None:
    run = read_run(fake_run)
    frame = tables.mark_blind(summarise(run.matrix, run.manifest["metrics"], draws=200), run.manifest["blind"])
    made = tables.metric_tables(frame, Catalogue.of(run.manifest))
    log, text = compiled(formats.to_latex("Run", [("Data", "made")], made), tmp_path)
    assert not wrong(log)
    assert all(f"{table.title}." in " ".join(text.split()) for table in made)
    assert all(
        cell.text.replace("-", "\N{MINUS SIGN}") in text for table in made for _, cells in table.rows for cell in cells
    )


def test_long_tables_keep_within_their_pages(tmp_path: Path) -> None:
    cells = named("").rows[0][1]
    table = replace(named(""), rows=tuple((f"a_method_with_a_long_name_{n}", cells) for n in range(100)))
    log, text = compiled(formats.to_latex("Run", [], [table]), tmp_path)
    assert not wrong(log)
    assert "Float too large" not in log
    assert all(f"name_{n} " in text for n in range(100))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_tables_compile(tmp_path: Path, path: Path) -> None:
    log, text = compiled(path.read_text(encoding="utf-8"), tmp_path)
    assert not wrong(log)
    assert len(text.split()) > 10
