"""Copy a run, light enough to be committed, to where tables and figures find it; needs neither torch nor a GPU."""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.report.keep import keep


@script("keep")
def main(cfg: DictConfig) -> None:
    print(keep(Path(cfg.run), Path(cfg.out), cfg.pictures))
