"""Tables, figures and one page from run folders; imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import temporary_folder
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.curves import draw_curves
from sfam_bench.report.figures.figures import gallery
from sfam_bench.report.figures.means import draw_overview
from sfam_bench.report.figures.sweep import draw_sweeps
from sfam_bench.report.names import Slugs
from sfam_bench.report.page import page
from sfam_bench.report.page.answer import describe_findings, draw_answer
from sfam_bench.report.stored import Summed
from sfam_bench.report.tables import formats, tables
from sfam_bench.report.tables.box_accuracy import with_box_accuracy
from sfam_bench.report.tables.flagged import flagged_table
from sfam_bench.report.tables.meta import FILES, measure_worth, write_meta
from sfam_bench.report.tables.protocols import OUTSIDE, describe_protocol, describe_violations
from sfam_bench.report.tables.tables import Report
from sfam_bench.runs.matrix import FACTS, RUN
from sfam_bench.runs.reader import Run, read_run
from sfam_bench.statistics import paired_difference

SHEETS = ("answer-*", "table-*", "gallery-*", "overview-*", "sweep-*", "curves-*")
OURS = ("index.html", "summary.csv", "differences.csv", *SHEETS, *FILES)


def write_report(runs: Sequence[Path], out: Path, allow_unfinished: bool = False) -> Report:
    """Write the report of several runs into the folder `out`, whole or not at all; returns the means and protocols."""
    found = [read_run(Path(run), allow_unfinished) for run in runs]
    _check(found)
    out = Path(out) if Path(out).name else Path(out).resolve()  # of out=.
    kept = _foreign_files(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out) as temporary:
        fresh, old = temporary / "new", temporary / "old"
        fresh.mkdir()
        report = _write(found, fresh)
        try:
            for path in kept:
                path.rename(fresh / path.name)
            if out.exists():
                out.rename(old)
            fresh.rename(out)
        except OSError:  # what was there goes back before the temporary folder is removed
            if old.exists():
                old.rename(out)
            for path in kept:
                if (fresh / path.name).exists():
                    (fresh / path.name).rename(path)
            raise
    return report


def _write(runs: Sequence[Run], out: Path) -> Report:
    named, sections, differences = Slugs(), list[page.Section](), list[pd.DataFrame]()
    boxed = [*map(with_box_accuracy, runs)]
    manifests = [run.manifest for run in boxed]
    summed = [Summed.of(run, others=manifests) for run in boxed]
    for each in summed:
        run = each.run
        against = tables.adjust_differences(paired_difference(run.matrix), each.catalogue)
        differences.append(tables.mark_blind(against, run.blind))
        section = _section(each, differences[-1], out, named)
        gallery(run, out, named=named)
        lines = [(path, "Mean scores and 95 % intervals.") for path in _only_png(draw_curves(run, out, named))]
        sections.append(replace(section, pictures=[*section.pictures, *lines]))
    table = pd.concat([each.means for each in summed], ignore_index=True)
    (out / "summary.csv").write_text(formats.to_csv(table), encoding="utf-8")
    (out / "differences.csv").write_text(formats.to_csv(pd.concat(differences, ignore_index=True)), encoding="utf-8")
    catalogue = Catalogue.of(*manifests)
    alike = [part for _, part in table.groupby(["dataset", "target"], sort=False)]
    compared = [
        block
        for part in alike
        for block in tables.add_remark(tables.compare_models(part, catalogue), _remark(runs, part))
    ]
    metrics = catalogue.sort(table.loc[table["explainer"] != FACTS, "metric"].unique())
    judged = [measure_worth(each.run) for each in summed]
    meta = write_meta(judged, table, catalogue, out, _remark(runs, table), named)
    whole_page = page.render_page(sections, compared, catalogue, metrics, meta, runs, named)
    (out / "index.html").write_text(whole_page, encoding="utf-8")
    return Report(table, catalogue, {section.title: section.protocol for section in sections})


def _section(summed: Summed, differences: pd.DataFrame, out: Path, named: Slugs) -> page.Section:
    """One (dataset, model, target): its part of the page, and its own files."""
    run, catalogue, part = summed.run, summed.catalogue, summed.means
    names = run.matrix.run
    drawn = [*draw_overview(part, catalogue, out, named), *draw_sweeps(part, run.manifest, out, named)]
    headlines, remark = _only_png(draw_answer(summed, out, named)), _remark([run], part)
    flagged = flagged_table(run.matrix, run.blind)
    section = page.Section(
        title=" · ".join(names),
        anchor=named(*names),
        answer=describe_findings(summed),
        headlines=[(path, "Means and 95 % intervals of the headline metrics.") for path in headlines],
        protocol=describe_protocol(run, part, summed.errors),
        tables=tables.add_remark(tables.metric_tables(part, catalogue), remark),
        differences=tables.add_remark(tables.difference_tables(differences, catalogue), remark),
        flagged=tables.add_remark([flagged], remark)[0] if flagged else None,
        pictures=[(path, "Means and 95 % intervals.") for path in _only_png(drawn)],
    )
    everything = [*section.tables, *section.differences, *([section.flagged] if section.flagged else [])]
    file = f"table-{section.anchor}"
    (out / f"{file}.md").write_text(formats.to_markdown(section.title, section.protocol, everything), encoding="utf-8")
    (out / f"{file}.tex").write_text(formats.to_latex(section.title, section.protocol, everything), encoding="utf-8")
    (out / f"{file}.csv").write_text(formats.to_csv(formats.pivot_means(part)), encoding="utf-8")
    return section


def _remark(runs: Sequence[Run], part: pd.DataFrame) -> str:
    """The models of this part of the summary that violate the protocol, and why; empty if none does."""
    shown = set(part[RUN].itertuples(index=False, name=None))
    found = {tuple(map(run.manifest.get, RUN)): describe_violations(run.manifest) for run in runs}
    texts = [f"{' · '.join(keys[:2])}: {why}" for keys, why in found.items() if why and keys in shown]
    return f"{OUTSIDE}: {'; '.join(texts)}." if texts else ""


def _only_png(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix == ".png"]


def _check(runs: Sequence[Run]) -> None:
    """Raise UserError if two runs have the same (dataset, model, target): their rows would mix."""
    if not runs:
        raise UserError("no run to report: pass run folders, for example runs=[results/cub]")
    seen: dict[tuple[str, ...], Path] = {}
    for run in runs:
        if other := seen.get(run.matrix.run):
            raise UserError(f"the runs {other} and {run.root} both have {' · '.join(run.matrix.run)}: pass one of them")
        seen[run.matrix.run] = run.root


def _foreign_files(out: Path) -> list[Path]:
    """Hydra's files in an existing report folder, which are kept; UserError if it has other foreign files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder for the report")
    others = [path for path in out.glob("*") if not any(path.match(pattern) for pattern in OURS)]
    hydras = [path for path in others if path.name.startswith(".") or path.suffix == ".log"]
    if foreign := sorted(set(others) - set(hydras)):
        raise UserError(f"{out} has {foreign[0].name}, which is not part of a report: choose another folder")
    return hydras
