"""Render tables, figures and the page of one or more run folders; needs neither torch nor a GPU.

Examples:

    sfam-bench report 'runs=[results/mine]'
    sfam-bench report 'runs=[results/mine,results/other]' out=results/both
    sfam-bench report 'runs=[results/mine]' allow_unfinished=true

Settings: runs, out, allow_unfinished.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.report.tables.formats import terminal_table
from sfam_bench.report.writer import write_report


@script("report")
def main(cfg: DictConfig) -> None:
    report = write_report([Path(run) for run in cfg.runs], Path(cfg.out), allow_unfinished=cfg.allow_unfinished)
    print(terminal_table(report))
    print(f"page: {Path(cfg.out) / 'index.html'}")
