"""The numbered tables of the benchmark, out of stored runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from os.path import commonprefix
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import pandas as pd
from matplotlib.figure import Figure

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.files import write_text
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.style import save
from sfam_bench.report.page import page
from sfam_bench.report.stored import Stored, Summed
from sfam_bench.report.tables import formats, known_answers, leaderboard, tables
from sfam_bench.report.tables.compared import difference_frame, difference_table
from sfam_bench.report.tables.flagged import left_out_table
from sfam_bench.report.tables.meta import measure_worth, predict_cause, prediction_table, rate_explainers, weigh_metrics
from sfam_bench.report.tables.models import model_sheets, model_table
from sfam_bench.report.tables.protocols import protocol_line
from sfam_bench.report.tables.tables import Table
from sfam_bench.statistics import FACTS, paired_difference

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{lmodern,textcomp,booktabs,graphicx}
\newcommand{\numbered}[1]{\setcounter{table}{0}\renewcommand{\thetable}{#1.\arabic{table}}}
\setlength{\belowcaptionskip}{4pt}
\begin{document}"""


@dataclass(frozen=True)
class Sheet:
    """A numbered table: its parts, the protocol of each run in a line, and the frames behind it by name."""

    title: str
    protocol: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    frames: Mapping[str, pd.DataFrame]

    def write(self, out: Path, name: str) -> list[Path]:
        """Write NAME.md, .tex and .html, and a CSV for each frame, into the folder `out`."""
        shown = formats.without_repeated_notes(self.tables)  # in LaTeX tables stand apart
        texts = {
            f"{name}.md": formats.to_markdown(self.title, self.protocol, shown),
            f"{name}.tex": formats.to_latex(self.title, self.protocol, self.tables),
            f"{name}.html": page.load_template("sheet.html.j2").render(
                title=self.title, lines=self.protocol, tables=shown
            ),
        }
        for kind, frame in self.frames.items():
            texts[f"{'-'.join(filter(None, [name, kind]))}.csv"] = formats.to_csv(frame, "%.6g")
        out.mkdir(parents=True, exist_ok=True)
        for file_name, text in texts.items():
            write_text(out / file_name, text)
        return [out / file_name for file_name in texts]


@runtime_checkable
class Drawing(Protocol):
    """A figure of stored runs."""

    @property
    def caption(self) -> str:
        """The caption."""

    def __call__(self, stored: Stored) -> Figure:
        """Draw it; UserError where a stored run lacks what it needs."""


def write_paper(
    stored: Stored,
    tables: Mapping[str, Callable[[Stored], Sheet]],
    drawings: Mapping[str, Drawing],
    out: Path,
    document: bool = False,
) -> list[Path]:
    """Render tables into out/tables, figures into out/figures, and out/paper.tex if `document` is set."""
    sheets = {name: table(stored) for name, table in tables.items()}
    drawn = {name: drawing(stored) for name, drawing in drawings.items()}
    paths = [path for name, sheet in sheets.items() for path in sheet.write(out / "tables", name)]
    paths += [path for name, figure in drawn.items() for path in save(figure, out / "figures", name)]
    if document:
        write_text(out / "paper.tex", _document(sheets, drawings))
        paths.append(out / "paper.tex")
    return paths


def _document(sheets: Mapping[str, Sheet], drawings: Mapping[str, Drawing]) -> str:
    """A LaTeX document of all tables and figures, each a section or a float; to be compiled in its own folder."""
    tables = [
        rf"\clearpage\section*{{{formats.escape_latex(sheet.title)}}}\numbered{{{name.rpartition('_')[2]}}}"
        rf"\input{{tables/{name}}}"
        for name, sheet in sheets.items()
    ]
    figures = [
        rf"\begin{{figure}}[htbp]\centering\includegraphics[width=\linewidth,height=0.8\textheight,keepaspectratio]"
        rf"{{figures/{name}.png}}\caption{{{formats.escape_latex(drawing.caption)}}}\end{{figure}}"
        for name, drawing in drawings.items()
    ]
    return "\n".join([PREAMBLE, *tables, r"\clearpage", *figures, r"\end{document}", ""])


@dataclass(frozen=True)
class Metrics(Checked):
    """Means of methods over pairs, best and tied among the methods shown.

    runs: names of stored runs, by the title of the part of the table in which they stand.
    metrics: names, or patterns as in reference_sensitivity*, in no particular order.
    across: what stands side by side: the metrics of a run, or the runs of a part, a table for each metric; "methods"
        joins the runs of a part, which evaluated different methods or pairs of one choice of pairs.
    explainers: which methods, all where none is named.
    differences: of which metrics the paired differences to the method `to` follow, for the runs that have one of them,
        with intervals that hold together in each run.
    compared: two methods each, whose difference in `compared_by` is shown for every run that has both.
    """

    title: str
    runs: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    across: Literal["metrics", "runs", "methods"] = "metrics"
    explainers: Sequence[str] = ()
    differences: Sequence[str] = ()
    to: str = "lafam"
    compared: Sequence[Sequence[str]] = ()
    compared_by: str = known_answers.AGREEMENT

    def __call__(self, stored: Stored) -> Sheet:
        names = dict.fromkeys(name for part in self.runs.values() for name in part)
        joined = self.across == "methods"
        parts = {
            title: [stored.join(part, title)] if joined else [*map(stored.run, part)]
            for title, part in self.runs.items()
        }
        runs = {run.name: run for part in parts.values() for run in part}
        found = {name: self._select_rows(run) for name, run in runs.items()}
        for pattern in self.metrics:
            if not any(fnmatchcase(name, pattern) for frame in found.values() for name in frame["metric"]):
                raise UserError(f"no stored run of '{self.title}' has a metric {pattern}: check its name")
        made = [table for title, part in parts.items() for table in self._part(title, part, found)]
        with_them = [run for run in runs.values() if {*self.differences} & {*run.run.matrix.metrics}]
        if self.differences and not with_them:
            raise UserError(
                f"no stored run of '{self.title}' has {' or '.join(self.differences)}: evaluate one with it"
            )
        made += [self._compare(run) for run in with_them]
        frames = {"": pd.concat([frame.assign(run=name) for name, frame in found.items()], ignore_index=True)}
        if self.compared:
            frames["differences"] = difference_frame([*runs.values()], self.compared, self.compared_by)
            label = Catalogue.of(*(run.run.manifest for run in runs.values())).label(self.compared_by)
            made.append(difference_table(frames["differences"], label))
        left_out = left_out_table({name: run.behind(found[name]) for name, run in runs.items()})
        shown = {name: title if joined else name for title, part in self.runs.items() for name in part}
        lines = [(name, describe_run(stored.run(name), found[shown[name]])) for name in names]
        return Sheet(self.title, lines, [*made, *([left_out] if left_out else [])], frames)

    def _select_rows(self, run: Summed) -> pd.DataFrame:
        """The rows of the means in the table, and the chance levels of its metrics."""
        shown = [name for name in run.metrics if any(fnmatchcase(name, pattern) for pattern in self.metrics)]
        if not shown:
            wanted = ", ".join(self.metrics)
            raise UserError(f"the stored run {run.name} has none of the metrics {wanted}: evaluate it with them")
        return run.among(shown, self.explainers)

    def _compare(self, run: Summed) -> Table:
        """The differences to `to`, whose intervals are corrected for all methods and metrics shown."""
        chosen = {*self.differences}
        matrix = run.run.matrix.select(lambda metric, name: metric in chosen and name != FACTS)
        if (absent := chosen - {*matrix.metrics}) or self.to not in matrix.explainers:
            what = f"has no method {self.to}" if not absent else f"has no {' and '.join(sorted(absent))}"
            raise UserError(f"the stored run {run.name} {what}: evaluate it too, or show other differences")
        frame = tables.mark_blind(paired_difference(matrix, self.to, corrected=True), run.run.blind)
        return tables.corrected_table(f"{run.name}: difference to {self.to}", frame, run.catalogue)

    def _part(self, title: str, runs: Sequence[Summed], found: Mapping[str, pd.DataFrame]) -> list[Table]:
        names = [run.name for run in runs]
        if self.across != "runs":
            return [
                table
                for run in runs
                for table in tables.metric_tables(found[run.name], run.catalogue, name_in_part(title, run.name, names))
            ]
        # letters are compared on purpose: a name is cut at its dashes, and is no path
        shared = commonprefix(names).rpartition("-")[0] if len(names) > 1 else ""  # noqa: RUF071
        own = {name: name.removeprefix(f"{shared}-") for name in names}  # without the common prefix
        whole = pd.concat([found[name].assign(model=own[name]) for name in names])
        catalogue = Catalogue.of(*(run.run.manifest for run in runs))
        levels = {metric: catalogue.chance(metric) for metric in whole["metric"].unique()}
        means = whole[(whole["explainer"] != FACTS) & ~whole["metric"].isin(levels.values())]
        made = []
        for metric in catalogue.sort(means["metric"].unique()):
            part = means[means["metric"] == metric]
            level = whole[whole["metric"] == levels[metric]].groupby("model")["mean"].mean()
            chances = dict(zip(level.index.astype(str), level.tolist(), strict=True))
            made.append(tables.run_table(f"{title}: {catalogue.title(metric)}", part, chances, catalogue))
        return made


def describe_run(run: Summed, means: pd.DataFrame) -> str:
    """Data set, model and target of a run in one line."""
    return protocol_line(run.run, means, run.errors)


def name_in_part(title: str, name: str, names: Sequence[str]) -> str:
    """The title of a run within its part: the part's title if it is the only run."""
    return title if len(names) == 1 else f"{title}, {name}"


@dataclass(frozen=True)
class Models:
    """Trained models compared with their frozen trunks and with published figures: PASS or DRIFT where comparable."""

    title: str
    runs: Sequence[str]

    def __call__(self, stored: Stored) -> Sheet:
        trainings = [stored.training(name) for name in self.runs]
        frame = model_table(trainings)
        sheets = [sheet for _, part in frame.groupby(["dataset", "split"], sort=False) for sheet in model_sheets(part)]
        code = ", ".join(dict.fromkeys(str(each.facts.get("git", "unknown"))[:10] for each in trainings))
        return Sheet(self.title, [("Code", f"git {code}")], sheets, {"": frame})


@dataclass(frozen=True)
class Agreement:
    """Whether the metrics of each run separate the exact decomposition from controls, and agree on rankings."""

    title: str
    runs: Sequence[str]

    def __call__(self, stored: Stored) -> Sheet:
        runs = [stored.run(name) for name in self.runs]
        catalogue = Catalogue.of(*(each.run.manifest for each in runs))
        found = weigh_metrics(
            [measure_worth(each.run) for each in runs], pd.concat([each.means for each in runs]), catalogue
        )
        if found is None:
            raise UserError(f"the stored runs {', '.join(self.runs)} have no metric of map quality")
        lines = [(each.name, describe_run(each, each.means)) for each in runs]
        return Sheet(self.title, lines, found.tables, found.frames)


@dataclass(frozen=True)
class KnownAnswers:
    """Causal agreement over worlds and networks, detection of the shortcut, and which metrics predict the cause.

    runs: names of stored runs, one a world; models that fail the intervention check are named, and left out of the
        other tables.
    clean: by the name of a run whose model uses a shortcut, the run of its clean twin.
    networks: runs of several networks in one world on the same pairs, whose causal agreement is a table of its own.
    compared: two methods each, whose difference in causal agreement is shown for every run.
    joined: by the name of a run, further runs with other methods on the same pairs, which become part of it.
    """

    title: str
    runs: Sequence[str]
    clean: Mapping[str, str]
    networks: Sequence[str] = ()
    compared: Sequence[Sequence[str]] = ()
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __call__(self, stored: Stored) -> Sheet:
        @cache
        def read(name: str) -> Summed:
            return stored.join([name, *self.joined[name]], name) if name in self.joined else stored.run(name)

        @cache
        def causal(name: str) -> Summed:
            return known_answers.causal_only(read(name))

        worlds, networks = ([causal(name) for name in names] for names in (self.runs, self.networks))
        counted = [run for run in worlds if known_answers.counts(run)]
        if not counted:
            raise UserError(f"no model of the stored runs {', '.join(self.runs)} passes the intervention check")
        runs = [*{run.name: run for run in (*worlds, *networks)}.values()]
        made = [known_answers.check_table(runs), known_answers.agreement_table(counted)]
        if checked := [run for run in networks if known_answers.counts(run)]:
            made.append(known_answers.network_table(checked))
        frames = {"means": pd.concat([run.means.assign(run=run.name) for run in runs], ignore_index=True)}
        if self.compared:
            shown = [run for run in runs if known_answers.counts(run)]
            frames["differences"] = difference_frame(shown, self.compared, known_answers.AGREEMENT)
            made.append(difference_table(frames["differences"], "causal agreement"))
        blind = [*dict.fromkeys(name for run in counted for name in run.run.blind)]
        pairs = {name: (read(name), read(clean)) for name, clean in self.clean.items()}
        if pairs := {name: pair for name, pair in pairs.items() if all(map(known_answers.counts, pair))}:
            frames["detection"] = known_answers.detection_frame(pairs)
            made.append(known_answers.detection_table(frames["detection"], blind))
        catalogue = Catalogue.of(*(run.run.manifest for run in counted))
        scores = rate_explainers(pd.concat([read(run.name).plain_means for run in counted]), catalogue)
        if len(predicted := predict_cause(scores, catalogue, blind)):
            frames["predicts"] = predicted
            made.append(prediction_table(predicted, catalogue))
        lines = [(run.name, describe_run(run, run.means)) for run in runs]
        return Sheet(self.title, lines, made, frames)


@dataclass(frozen=True)
class Leaderboards:
    """The leaderboards of the tracks, out of the folder `leaderboard` beside the records."""

    title: str

    def __call__(self, stored: Stored) -> Sheet:
        boards = leaderboard.read_leaderboards(Path(stored.root).parent / "leaderboard")
        lines = [line for rows in boards for line in leaderboard.list_cards(rows)]
        frame = pd.concat([rows.frame for rows in boards], ignore_index=True)
        return Sheet(self.title, lines, [rows.table for rows in boards], {"": frame})
