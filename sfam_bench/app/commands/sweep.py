"""Run a grid of trainings and evaluations (conf/sweep/) as jobs and write its tables; call again to complete it.

Examples:

    sfam-bench sweep sweep=gamma
    sfam-bench sweep sweep=losses launcher=local workers=2
    sfam-bench sweep sweep=gamma 'more=["pairs.count=8"]' out=results/sweeps/small

Settings: launcher, workers, out, more, report.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sfam_bench.app.cli import script
from sfam_bench.app.launching import check_launcher, launch
from sfam_bench.app.settings import build
from sfam_bench.app.sweeping import Sweep, tabulate
from sfam_bench.core.files import check_writable
from sfam_bench.jobs.watching import read_status, wait


@script("sweep")
def main(cfg: DictConfig) -> None:
    name = HydraConfig.get().runtime.choices["sweep"]
    out = Path("results/sweeps", name) if OmegaConf.is_missing(cfg, "out") else Path(cfg.out)
    sweep = Sweep.of(name, OmegaConf.to_container(cfg.sweep), out, list(cfg.more))  # type: ignore[arg-type]
    check_launcher(cfg.launcher)
    build(cfg.cluster)  # checked before anything is computed
    plan = sweep.plan(bool(cfg.report))
    cfg.allow = [*cfg.allow, *sweep.packages]
    check_writable(sweep.out)
    sweep.out.mkdir(parents=True, exist_ok=True)
    unchanged = read_status(sweep.out, plan, cfg.gone).complete
    launch(cfg, sweep.out, plan)
    wait(sweep.out, plan, cfg.gone)
    tabulate(sweep.out, plan, read_status(sweep.out, plan, cfg.gone), unchanged)
