"""Tables as Markdown, LaTeX and CSV."""

import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import count_decimals, sort_explainers
from sfam_bench.report.tables.protocols import EMBEDDING, OUTSIDE
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Report, Table
from sfam_bench.statistics import FACTS, RUN

QUALIFY = (EMBEDDING, "Training", OUTSIDE, "Curves", "Passes")  # protocol lines that qualify the numbers
ROWS = 26  # of two lines, which fill a page of LaTeX's article
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # never wider than the line
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    "`": r"\textasciigrave{}",
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "·": r"$\cdot$"},
    **{"\N{MINUS SIGN}": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\rightarrow$"},
}
PRINTED = "\u2013—\u2018\u2019“”„†‡•…€"  # beside ASCII and the letters up to ž, what T1 fonts have
FORMULA = ("=", "+", "-", "@")  # with what a cell begins that spreadsheets compute
NOT_PRINTED = "ĦħĸĿŀŉŦŧ"


def to_markdown(title: str, lines: Sequence[tuple[str, str]], tables: Sequence[Table]) -> str:
    """The tables as a Markdown page, below their protocol."""
    facts = "\n".join(f"- {_escape_markdown(name)}: {_escape_markdown(text)}" for name, text in lines)
    return "\n\n".join([f"# {_escape_markdown(title)}", facts, *(_markdown_table(table) for table in tables)]) + "\n"


def without_repeated_notes(tables: Sequence[Table]) -> list[Table]:
    """The tables, where several in a row have the same note, with that of the first alone."""
    notes = [None, *(table.note for table in tables)]
    return [
        replace(table, note="") if table.note == before else table for table, before in zip(tables, notes, strict=False)
    ]


def _markdown_table(table: Table) -> str:
    heads = [
        " ".join(filter(None, [column.label, f"({column.note})" if column.note else ""])) for column in table.columns
    ]
    rows = [[name, *(_markdown_cell(cell) for cell in cells)] for name, cells in table.rows]
    lines = [[table.head, *heads], ["---", *[":--"] * len(heads)], *rows]
    grid = "\n".join("| " + " | ".join(_escape_markdown(text) for text in line) + " |" for line in lines)
    return "\n\n".join(filter(None, [f"## {_escape_markdown(table.title)}", grid, _escape_markdown(table.note)]))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return " ".join(filter(None, [text, cell.interval, "≈" if cell.tied else ""]))


def _escape_markdown(text: str) -> str:
    """Escape pipes and HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def to_latex(title: str, lines: Sequence[tuple[str, str]], tables: Sequence[Table]) -> str:
    r"""LaTeX tables for \input into a document with \usepackage{booktabs,graphicx} and T1 fonts."""
    facts = [_comment(f"{name}: {text}") for name, text in lines]
    pages = [_latex_table(page) for table in tables for page in _pages(table)]
    return "\n\n".join(["\n".join([_comment(title), *facts]), *pages]) + "\n"


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}"


def _pages(table: Table) -> list[Table]:
    """The table in parts that fit on a page."""
    starts = range(0, len(table.rows), ROWS) or [0]
    parts = [replace(table, rows=table.rows[start : start + ROWS]) for start in starts]
    return [parts[0], *(replace(part, title=f"{part.title}, continued", note="") for part in parts[1:])]


def _latex_table(table: Table) -> str:
    heads = " & ".join([_protect_start(table.head), *(_latex_head(column) for column in table.columns)])
    methods: list[str] = []
    blind: list[str] = []
    for name, cells in table.rows:
        line = " & ".join([_protect_start(name), *(_latex_cell(cell) for cell in cells)]) + r" \\"
        (blind if name in table.blind else methods).append(line)
    body = [*methods, *([r"\midrule"] if methods and blind else []), *blind]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escape_latex(_caption(table))}}}",
            FITTED,
            rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}",
            *(r"\toprule", rf"{heads} \\", r"\midrule", *body, r"\bottomrule"),
            *(r"\end{tabular}}", r"\end{table}"),
        ]
    )


def _caption(table: Table) -> str:
    title = table.title if table.title.endswith("?") else f"{table.title}."
    return f"{title} {table.note}".strip()


def _latex_head(column: Column) -> str:
    parts = [*wrap(column.label, 16), *wrap(column.note, 22)]
    lines = r" \\ ".join(_protect_start(part) for part in parts)
    return rf"\shortstack[l]{{{lines}}}"


def _latex_cell(cell: Cell) -> str:
    """The mean over its interval, which keeps five columns within a page."""
    text = rf"\textbf{{{_latex_number(cell.text)}}}" if cell.best else _latex_number(cell.text)
    text += r" $\approx$" if cell.tied else ""
    if not cell.interval:
        return text
    stack = rf"{text} \\[-2pt] {{\tiny {_latex_number(cell.interval)}}}"
    return rf"\begin{{tabular}}[t]{{@{{}}l@{{}}}}{stack}\end{{tabular}}"


def _latex_number(text: str) -> str:
    return text if text == NOTHING else re.sub(r"-(?=\d)", "$-$", escape_latex(text))


def _protect_start(text: str) -> str:
    r"""Protect a bracket or star at the start of a line, which LaTeX would take as an argument of the previous \\."""
    escaped = escape_latex(text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def wrap(text: str, width: int) -> list[str]:
    """Wrap a string; an arrow stays with its word."""
    return [
        line.replace("\N{NO-BREAK SPACE}", " ")
        for line in textwrap.wrap(re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", text), width, break_long_words=False)
    ]


def escape_latex(text: str) -> str:
    """A string escaped for LaTeX, on one line and without ligatures; an unavailable letter becomes its code."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return re.sub(r"([-',])(?=\1)", r"\1{}", "".join(map(_latex_sign, line)))


def _latex_sign(sign: str) -> str:
    if sign in LATEX:
        return LATEX[sign]
    known = " " <= sign <= "~" or ("¡" <= sign <= "ž" and sign not in NOT_PRINTED) or sign in PRINTED
    return sign if known else f"[U+{ord(sign):04X}]"


def pivot_means(summary: pd.DataFrame) -> pd.DataFrame:
    """The means, a row for each explainer and a column for each metric, for spreadsheets."""
    own = summary[summary["explainer"] != FACTS]
    order = own["metric"].drop_duplicates().tolist()
    table = own.pivot_table(index=[*RUN, "explainer"], columns="metric", values="mean", sort=False)
    return table.reindex(columns=order).reset_index()


def to_csv(frame: pd.DataFrame, float_format: str | None = None) -> str:
    """A frame as CSV; a string that a spreadsheet would read as a formula gets a leading apostrophe."""
    safe = frame.rename(columns=_no_formula)
    for number, kind in enumerate(safe.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(number, [_no_formula(cell) for cell in safe.iloc[:, number]])
    return str(safe.to_csv(index=False, float_format=float_format))


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(FORMULA) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def terminal_table(report: Report, width: int = 120) -> str:
    """Means with half their intervals for a terminal: headline metrics first, then those that fit, and the protocol."""
    summary = report.summary
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna()]
    own = own[own["metric"].map(report.catalogue.is_compared).astype(bool)]
    blocks: list[str] = []
    for keys, part in own.groupby(RUN, sort=False):
        title = " · ".join(map(str, keys))
        facts = [f"{name}: {text}" for name, text in report.protocols.get(title, ()) if name in QUALIFY]
        blocks.append(
            "\n".join(
                [title, _terminal_block(part, width, report.catalogue), *(textwrap.fill(fact, width) for fact in facts)]
            )
        )
    return "\n\n".join([*blocks, "mean ± half of its 95 % interval; * best, ≈ not significantly worse than the best"])


def _terminal_block(summary: pd.DataFrame, width: int, catalogue: Catalogue) -> str:
    blind = set(summary.loc[summary["blind"], "explainer"])
    explainers = sort_explainers(summary["explainer"].drop_duplicates().tolist(), blind)
    names = catalogue.sort(summary["metric"].unique())
    first = _align(["", "", "", *explainers], str.ljust)
    columns, left = {}, width - len(first[0])
    for name in dict.fromkeys([*catalogue.headlines(names), *names]):
        column = _terminal_column(summary[summary["metric"] == name], explainers, catalogue.title(name))
        if len(column[0]) + 2 <= left:
            columns[name], left = column, left - len(column[0]) - 2
    grid = zip(first, *(columns[name] for name in names if name in columns), strict=True)
    lines = [line for cells in grid if (line := "  ".join(cells).rstrip())]
    more = len(names) - len(columns)
    return "\n".join([*lines, *([f"and {more} more metrics in the report"] if more else [])])


def _terminal_column(part: pd.DataFrame, explainers: Sequence[str], label: str) -> list[str]:
    """Three header lines, then a cell for each explainer."""
    head = [
        f"{line}  " for line in wrap(label, max(13, len(label) // 3 + 4))[:3]
    ]  # the marks of the cells are on the right
    digits = count_decimals([*part["mean"], *part["low"], *part["high"]])
    rows = {row["explainer"]: row for row in part.to_dict("records")}
    cells = [_terminal_cell(rows.get(explainer), digits) for explainer in explainers]
    return _align([*[""] * (3 - len(head)), *head, *cells], str.rjust)


def _terminal_cell(row: Mapping[Any, Any] | None, digits: int) -> str:
    if row is None:
        return "--  "
    if not row["count"]:
        return "flagged  "
    mark = "*" if row["best"] else "≈" if row["tied"] else " "
    half = (row["high"] - row["low"]) / 2
    spread = f" ±{half:.{digits}f}" if np.isfinite(half) else ""
    return f"{row['mean']:.{digits}f}{spread} {mark}"


def _align(texts: Sequence[str], adjust: Callable[[str, int], str]) -> list[str]:
    most = max(map(len, texts))
    return [adjust(text, most) for text in texts]
