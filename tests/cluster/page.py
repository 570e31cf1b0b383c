"""Every command of docs/cluster.md, as it stands there, on a SLURM of one node: python -m tests.cluster.page."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.lab import Lab, lacking, slurm
from tests.paths import ROOT

PAGE = ROOT / "docs" / "cluster.md"


def commands(text: str) -> str:
    """The shell blocks of a page, one after another."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))


def settings(text: str) -> str:
    """The YAML that is to be conf/local.yaml."""
    found = re.search(r"^```yaml\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def main() -> int:
    """Run them in a checkout of their own with a model trained for one epoch; the exit code."""
    if why := lacking():
        print(f"error: {why}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="page") as folder, slurm() as env:
        lab = Lab(Path(folder), {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"})
        for name in ("experiments", "sfam_bench", "conf"):
            (lab.folder / name).symlink_to(ROOT / name)
        lab.script("train", "experiment=planted", "train.epochs=1", "run_dir=results/train/planted")
        script = "set -euxo pipefail\n" + commands(PAGE.read_text()).replace("pip install", "true pip install")
        return subprocess.run(["bash", "-c", script], cwd=lab.folder, env=lab.environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
