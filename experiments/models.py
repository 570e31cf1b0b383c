"""Make the table of trained models out of run folders of train.py; needs neither torch nor a GPU."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import script
from sfam_bench.report.models import terminal_models, write_models


@script("models")
def main(cfg: DictConfig) -> None:
    print(terminal_models(write_models([Path(run) for run in cfg.runs], Path(cfg.out))))
    print(f"tables: {cfg.out}")


if __name__ == "__main__":
    main()
