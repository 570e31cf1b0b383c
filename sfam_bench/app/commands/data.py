"""Download a data set and verify its checksums; an interrupted download is continued.

Examples:

    sfam-bench data download=cub
    sfam-bench data download=sop
    sfam-bench data download=cars196 download.root=/data
"""

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.settings import build


@script("data")
def main(cfg: DictConfig) -> None:
    build(cfg.download)
