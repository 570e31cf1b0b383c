"""Download a data set from its configured addresses, with checksums, continuing where an earlier try broke off."""

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.settings import build


@script("data")
def main(cfg: DictConfig) -> None:
    build(cfg.download)
