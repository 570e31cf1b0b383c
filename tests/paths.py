"""Folders of the repository and of real photos."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SHARED = Path(os.environ.get("SFAM_BENCH_SHARED", ROOT.parent / "shared" / "data"))
