"""Folders of the repository and of real photos, and the setting that untrained models need."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SHARED = Path(os.environ.get("SFAM_BENCH_SHARED", ROOT.parent / "shared" / "data"))
UNTRAINED = "protocol.allow=[random_weights]"  # most tests need no training
