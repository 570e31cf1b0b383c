"""Run one job of a plan (a shard, a trial or a cell of a sweep) in this process; schedulers call this.

Examples:

    sfam-bench work run_dir=results/big job=0123456789abcdef
    sfam-bench work run_dir=results/sweeps/gamma job=train-gap-none-01234567
    sfam-bench work run_dir=results/tune/sfam job=trial-0003 allow=[my_package]

Settings: run_dir, job, allow.
"""

import signal
import sys
from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.work import work


@script("work")
def main(cfg: DictConfig) -> None:
    stopped = work(Path(cfg.run_dir), cfg.job, allow=cfg.allow)
    if stopped:
        print(f"stopped by {signal.Signals(stopped).name}: finished work is kept", file=sys.stderr)
        sys.exit(128 + stopped)
