"""Run a grid of trainings and evaluations (conf/sweep/) as jobs, and tabulate it; again: what is not done.

Examples:

    sfam-bench sweep sweep=gamma
    sfam-bench sweep sweep=losses launcher=local workers=2
    sfam-bench sweep sweep=gamma 'more=["pairs.count=8"]' out=results/sweeps/small

Settings: launcher, workers, out, more, report.
"""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sfam_bench.app.cli import script
from sfam_bench.app.launching import check_launcher, launch
from sfam_bench.app.settings import build
from sfam_bench.app.sweeping import Sweep
from sfam_bench.core.files import check_writable
from sfam_bench.jobs.plan import JobList
from sfam_bench.jobs.watching import read_status, wait
from sfam_bench.report.tables.cells import write_cells
from sfam_bench.report.writer import write_report


@script("sweep")
def main(cfg: DictConfig) -> None:
    name = HydraConfig.get().runtime.choices["sweep"]
    out = Path("results/sweeps", name) if OmegaConf.is_missing(cfg, "out") else Path(cfg.out)
    sweep = Sweep.of(name, OmegaConf.to_container(cfg.sweep), out, list(cfg.more))  # type: ignore[arg-type]
    check_launcher(cfg.launcher)
    build(cfg.cluster)  # checked before anything is computed
    plan = sweep.plan()
    cfg.allow = [*cfg.allow, *sweep.packages]
    check_writable(sweep.out)
    sweep.out.mkdir(parents=True, exist_ok=True)
    unchanged = read_status(sweep.out, plan, cfg.gone).complete
    launch(cfg, sweep.out, plan)
    wait(sweep.out, plan, cfg.gone)
    tabulate(cfg, sweep.out, plan, unchanged)


def tabulate(cfg: DictConfig, out: Path, plan: JobList, unchanged: bool) -> None:
    """Write the table of a sweep, and the page if cells are new; exit with 1 if cells are not done."""
    done, cells = write_cells(out, plan, read_status(out, plan, cfg.gone))
    print(f"table: {out / 'cells.md'}")
    page = out / "report" / "index.html"
    if done and cfg.report and not (unchanged and page.exists()):
        write_report([out / name for name in done], page.parent)
        print(f"page: {page}")
    if len(done) < len(cells):
        where = f"see {out / 'cells.md'} and {out / 'failures'}, correct the cause, and start the sweep again"
        print(f"error: {len(cells) - len(done)} of {len(cells)} cells are not done: {where}", file=sys.stderr)
        sys.exit(1)
