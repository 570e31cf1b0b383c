"""Download a data set from its configured addresses, with checksums, continuing where an earlier try broke off."""

from omegaconf import DictConfig

from experiments.cli import script
from experiments.settings import build


@script("data")
def main(cfg: DictConfig) -> None:
    build(cfg.download)


if __name__ == "__main__":
    main()
