"""Copy a run, without its large files, to the folder of records that paper reads; needs neither torch nor a GPU.

Examples:

    sfam-bench keep run=results/mine out=results/records/mine
    sfam-bench keep run=results/mine out=results/records/mine pictures=2
    sfam-bench keep run=results/train/mine out=results/records/train-mine

Settings: run, out, pictures, curves.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.report.keep import keep_run


@script("keep")
def main(cfg: DictConfig) -> None:
    print(keep_run(Path(cfg.run), Path(cfg.out), cfg.pictures, cfg.curves))
