"""Run a grid of trainings and evaluations (conf/sweep/) with Hydra's multirun, and tabulate it; again: what is missing.

Examples:

    sfam-bench sweep sweep=gamma
    sfam-bench sweep sweep=losses launcher=joblib
    sfam-bench sweep sweep=gamma 'more=["pairs.count=8"]' out=results/sweeps/small

Settings: launcher, out, more, report.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sfam_bench.app.cli import script
from sfam_bench.app.sweeping import Sweep
from sfam_bench.core.conf import conf_folder
from sfam_bench.core.errors import UserError
from sfam_bench.report.tables.cells import write_cells
from sfam_bench.report.writer import write_report

NEEDS = {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher"}
SLURM = "hydra_plugins.hydra_submitit_launcher"


@script("sweep")
def main(cfg: DictConfig) -> None:
    name = HydraConfig.get().runtime.choices["sweep"]
    out = Path("results/sweeps", name) if OmegaConf.is_missing(cfg, "out") else Path(cfg.out)
    sweep = Sweep.of(name, OmegaConf.to_container(cfg.sweep), out, list(cfg.more))  # type: ignore[arg-type]
    slurm = conf_folder().glob("hydra/launcher/slurm*.yaml")
    launchers = [*NEEDS, *sorted(file.stem for file in slurm)]
    if cfg.launcher not in launchers:
        raise UserError(f"launcher is '{cfg.launcher}': choose {', '.join(launchers)}")
    if not find_spec(NEEDS.get(cfg.launcher, SLURM)):
        raise UserError(f"launcher={cfg.launcher} needs more packages: pip install '.[cluster]' in the clone")
    sweep.out.mkdir(parents=True, exist_ok=True)
    stages = {stage: sweep.jobs(stage) for stage in sweep.stages}
    worked = False
    for stage, jobs in stages.items():
        due = [job for job in jobs if not job.done]
        print(f"{stage}: {len(jobs)} cells, {len(due)} to do", flush=True)
        if due:
            worked = True
            command = [sys.executable, "-m", "sfam_bench", stage]
            code = subprocess.run([*command, *sweep.arguments(stage, due, cfg.launcher)]).returncode
            if code and all(job.state == "missing" for job in jobs):  # a mistake that no job came to, which it has said
                sys.exit(code)
    done, undone = write_cells(name, stages, sweep.out)
    print(f"table: {sweep.out / 'cells.md'}")
    page = sweep.out / "report" / "index.html"
    if done and cfg.report and (worked or not page.exists()):
        write_report([job.folder for job in done], page.parent)
        print(f"page: {page}")
    if undone:
        cells = [*stages.values()][-1]
        where = f"see {sweep.out / 'cells.md'} and {sweep.out / 'failures'}, mend it, and start the sweep again"
        print(f"error: {len(cells) - len(done)} of {len(cells)} cells are missing: {where}", file=sys.stderr)
        sys.exit(1)
