"""Compute one shard of a planned evaluation in this process, as `submit run` has its tasks do.

Examples:

    sfam-bench work run_dir=results/big shard=00000
    sfam-bench work run_dir=results/big shard=00001
    sfam-bench work run_dir=results/big shard=00000 'allow=[my_package]'

Settings: run_dir, shard, allow.
"""

import signal
import sys
from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.work import work


@script("work")
def main(cfg: DictConfig) -> None:
    stopped = work(Path(cfg.run_dir), cfg.shard, allow=cfg.allow)
    if stopped:
        print(f"stopped by {signal.Signals(stopped).name}: what was done is kept", file=sys.stderr)
        sys.exit(128 + stopped)
