"""A place where evaluations in shards meet with accidents: the real commands, and a real SLURM of one node."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfam_bench.runs.chunks import KEYS
from sfam_bench.runs.reader import read_records
from tests.paths import ROOT
from tests.scripts import DATA

HERE = Path(__file__).parent
SETTINGS = [
    *("experiment=planted", *DATA, "steps.intervals=8", "batch_size=2", "passes.mode=eager", "cluster.cpus=1"),
    *("pairs.kinds=[random_positive,partial_match]", "pairs.count=34", "pairs.both_directions=true"),
    *("explainer=[sfam,lafam,grad_cam,chance]", "metric=[selectivity,retrieval,deletion,pointing_game]"),
    "+explainer.slow={_target_: tests.cluster.slow.Slow}",
    "+explainer.poison={_target_: tests.cluster.poison.Poison}",
]
ALLOW = "allow=[tests.cluster]"
SLURM = ("slurmctld", "slurmd", "squeue", "sbatch", "srun", "munged")


def lacking() -> str:
    """Why there can be no SLURM here; nothing where there can be."""
    if os.geteuid() != 0:
        return "no SLURM here: its daemons need root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in SLURM if shutil.which(name, path=path) is None]
    how = "not found (tests/cluster/install.sh installs it on Debian)"
    return f"no SLURM here: {', '.join(absent)} {how}" if absent else ""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """A SLURM of one node; what the environment must hold to use it."""
    folder = tempfile.mkdtemp(prefix="slurm")  # short: the name of a socket has at most 108 letters
    up = subprocess.run([HERE / "slurm_up.sh", folder, str(os.getpid())], capture_output=True, text=True, timeout=120)
    try:
        if up.returncode:
            raise RuntimeError(f"SLURM did not start: {up.stderr[-2000:]}")
        yield {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{HERE / 'bin'}:{os.environ['PATH']}"}
    finally:
        subprocess.run([HERE / "slurm_down.sh", folder], timeout=120, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def until(found: Callable[[], Any], what: str, seconds: float = 300.0, every: float = 0.05) -> Any:
    """Wait until something is so, and return it; look `every` so many seconds."""
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return value


@dataclass
class Lab:
    """A folder with the records of one uninterrupted process, and a plan for each number of shards."""

    folder: Path
    slurm: dict[str, str]
    plans: dict[int, Path] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def of(cls, folder: Path, slurm: dict[str, str]) -> "Lab":
        """Train a model, and evaluate it in one process."""
        lab = cls(folder, slurm)
        lab.script("train", "experiment=planted", *DATA, "train.epochs=1", "train.per_class=2", "run_dir=train")
        lab.script("evaluate", *SETTINGS, lab.model, "run_dir=whole")
        return lab

    @property
    def model(self) -> str:
        """The setting of the trained model."""
        return f"model.checkpoint={self.folder / 'train' / 'model.safetensors'}"

    def script(self, name: str, *arguments: str, env: dict[str, str] | None = None, code: int = 0) -> str:
        """Run a script; what it said, once it has ended with `code`."""
        process = self.begin(name, *arguments, env=env)
        out, err = process.communicate(timeout=900)
        if process.returncode != code:
            raise RuntimeError(f"{name} {' '.join(arguments)}: exit {process.returncode}\n{out[-2000:]}{err[-2000:]}")
        return out + err

    def begin(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Begin a script in the background, in a process group of its own."""
        command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *arguments]
        known, pipe = {**self.environment(), **(env or {})}, subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=known, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def environment(self) -> dict[str, str]:
        """That of a user of this SLURM."""
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return {**os.environ, **self.slurm, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def ask(self, *command: str) -> str:
        """What a command of SLURM answers."""
        env = {**os.environ, **self.slurm}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout

    def planned(self, shards: int, at: Path | None = None) -> "PlannedRun":
        """A run that is planned, and not begun."""
        if shards not in self.plans:
            self.plans[shards] = self.folder / f"plan-{shards}"
            self.script("submit", "plan", *SETTINGS, self.model, f"shards={shards}", f"run_dir={self.plans[shards]}")
        self.count += 1
        root = shutil.copytree(self.plans[shards], at or self.folder / f"run-{self.count}", dirs_exist_ok=True)
        return PlannedRun(self, root)


@dataclass
class PlannedRun:
    """One run, and what befell it."""

    lab: Lab
    root: Path
    again: int = 0  # times that `run` had to be repeated
    launcher: list[str] = field(default_factory=list)
    first: "subprocess.Popen[str] | None" = None
    merged: bool = False

    def start(self, *launcher: str, **env: str) -> "subprocess.Popen[str]":
        """Begin to compute, and wait for it in the background."""
        self.launcher = [f"run_dir={self.root}", "wait=true", ALLOW, *launcher]
        self.first = self.lab.begin("submit", "run", *self.launcher, env={**env, "NO_PAUSE": str(self.no_pause)})
        return self.first

    @property
    def no_pause(self) -> Path:
        """The file that ends the pauses between batches."""
        return self.lab.folder / f"{self.root.name}.no_pause"

    def pieces(self, count: int) -> None:
        """Wait until so many batches are on disk, of which the plan has made the first."""
        records = self.root / "records"
        until(lambda: len(list(records.glob("[0-9]*.parquet"))) >= count, f"{count} batches in {records}")

    def at_work(self) -> list[dict[str, Any]]:
        """What the processes that compute say of themselves."""
        found = []
        for path in (self.root / "running").glob("*.json"):
            try:
                note = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            if Path(f"/proc/{note['pid']}").exists():
                found.append(note)
        return found

    def arrays(self) -> list[str]:
        """The jobs that were submitted, as SLURM numbers arrays."""
        notes = [json.loads(path.read_text()) for path in (self.root / "launches").glob("*.json")]
        return sorted({job.split("_")[0] for note in notes for job in note.get("jobs", {}).values()})

    def restarts(self) -> int:
        """How many times SLURM has begun tasks again."""
        shown = "".join(self.lab.ask("scontrol", "show", "job", array) for array in self.arrays())
        return sum(int(word.removeprefix("Restarts=")) for word in shown.split() if word.startswith("Restarts="))

    def ended(self) -> tuple[int, str]:
        """The exit code of the first `run`, and its errors, once it has ended."""
        assert self.first is not None
        _, err = self.first.communicate(timeout=900)
        return self.first.returncode, err

    def kill(self, process: "subprocess.Popen[str]") -> None:
        """SIGKILL to a process alone; its children go on."""
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    def finish(self) -> None:
        """Say `run` again where the first did not complete it, and merge."""
        code = self.ended()[0] if self.first else int(not self.merged)
        while code:
            self.again += 1
            process = self.lab.begin("submit", "run", *self.launcher)
            _, err = process.communicate(timeout=900)
            if (code := process.returncode) and self.again == 3:
                raise RuntimeError(f"not complete after three more runs: {err[-3000:]}")
        self.lab.script("submit", "merge", f"run_dir={self.root}")
        self.merged = True

    def compared(self, unfinished: bool = False) -> dict[str, Any]:
        """The merged records beside those of one uninterrupted process."""
        found, whole = (read_records(root, unfinished) for root in (self.root, self.lab.folder / "whole"))
        keys = list(KEYS)
        both = whole.merge(found.drop_duplicates(keys), on=keys, how="outer", suffixes=("", "_found"), indicator=True)
        shared = both[both["_merge"] == "both"]
        value, other = shared["value"].to_numpy(float), shared["value_found"].to_numpy(float)
        difference = np.where(np.isnan(value) & np.isnan(other), 0.0, np.abs(value - other))
        flags = shared["flag"].astype(object).fillna("") != shared["flag_found"].astype(object).fillna("")
        return {
            "records": len(whole),
            "lost": int((both["_merge"] == "left_only").sum()),
            "added": int((both["_merge"] == "right_only").sum()),
            "duplicated": int(found.duplicated(keys).sum()),
            "difference": float(np.max(difference, initial=0.0)) if not flags.any() else float("nan"),
        }
