"""Render the numbered tables and the figures of the benchmark from stored records; needs neither torch nor a GPU.

Examples:

    sfam-bench paper 'table=[1_models,2_faithfulness]'
    sfam-bench paper 'figure=[curves]' out=mine
    sfam-bench paper 'table=[7_cost]' document=true out=mine

Settings: records, out, document.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.report.paper import write_paper
from sfam_bench.report.stored import Stored


@script("paper")
def main(cfg: DictConfig) -> None:
    tables, drawings = build(cfg.get("table") or {}), build(cfg.get("figure") or {})
    if not (tables or drawings):
        raise UserError("no table and no figure is chosen: name some, as in table=[1_models] or figure=[gamma]")
    for path in write_paper(Stored(Path(cfg.records)), tables, drawings, Path(cfg.out), cfg.document):
        print(path)
