"""Copy a run, light enough to be committed, to where tables and figures find it; needs neither torch nor a GPU."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import script
from sfam_bench.keep import keep


@script("keep")
def main(cfg: DictConfig) -> None:
    print(keep(Path(cfg.run), Path(cfg.out), cfg.pictures))


if __name__ == "__main__":
    main()
