"""A real SLURM: accidents lose no record and double none. All of them: make cluster-test."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sfam_bench.app.overrides import write_value
from sfam_bench.jobs.slurm import Request
from sfam_bench.runs.chunks import KEYS
from tests.cluster.faults import NO_FAULT, must, tried
from tests.cluster.lab import HERE, Lab, PlannedRun, lacking
from tests.cluster.page import PAGE, commands, settings
from tests.paths import ROOT, UNTRAINED
from tests.scripts import DATA

QUICK = {"gpus": (0,), "preemption": (10,), "timeout": (20,), "kill_task": (20,)}


@pytest.mark.slow
def test_accidents_lose_no_record_and_double_none(lab: Lab) -> None:
    """One after another, since they share two cores, and what they are compared with."""
    found = {name: happened(lab, name) for name in QUICK}
    rows = [row for of_fault in found.values() for row in of_fault]
    assert [row for row in rows if not row["records"]] == []
    assert [row for row in rows if row["lost"] or row["added"] or row["duplicated"]] == []
    assert [row for row in rows if not row["difference"] <= 1e-6] == []
    assert [row for row in rows if row["run_again"] > 1] == []
    if vain := [name for name, of_fault in found.items() if not of_fault]:
        pytest.skip(f"on a machine this busy, twice too late to be a fault: {', '.join(vain)}; the others held")


def happened(lab: Lab, name: str) -> list[dict[str, Any]]:
    """The rows of a fault; one that came too late on a busy machine proves nothing, and is tried once again."""
    for _ in range(2):
        try:
            return tried(lab, name, QUICK[name])
        except (RuntimeError, TimeoutError) as error:
            if isinstance(error, RuntimeError) and NO_FAULT not in str(error):
                raise
    return []


def test_a_comparison_sees_what_is_lost_doubled_and_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.DataFrame([dict.fromkeys(KEYS, name) | {"value": 1.0, "flag": None} for name in "abc"])
    found = pd.concat([whole[:2], whole[:1]], ignore_index=True)
    found.loc[1, "value"] = 1.5
    frames = {tmp_path / "run": found, tmp_path / "whole": whole}
    monkeypatch.setattr("tests.cluster.lab.read_records", lambda root, _: frames[root])
    assert PlannedRun(Lab(tmp_path, {}), tmp_path / "run").compared() == {
        **{"records": 3, "lost": 1, "added": 0, "duplicated": 1, "difference": 0.5}
    }
    found.loc[1, "flag"] = "constant_map"
    assert PlannedRun(Lab(tmp_path, {}), tmp_path / "run").compared()["difference"] != 0.5


def test_a_fault_that_did_not_happen_proves_nothing() -> None:
    with pytest.raises(RuntimeError, match="no fault: it lived"):
        must(False, "it lived")


@pytest.mark.slow
def test_the_page_for_new_users_can_be_followed_by_a_machine(tmp_path: Path) -> None:
    text = PAGE.read_text()
    verbs = re.findall(r"submit (\w+) run_dir|submit (plan) ", commands(text))
    assert {"".join(verb) for verb in verbs} == {"plan", "run", "status", "cancel", "merge"}
    known = {setting.name for setting in fields(Request)}
    assert known.issuperset(yaml.safe_load(settings(text))["cluster"])


@pytest.mark.slow
def test_snakemake_computes_the_shards_of_a_plan(tmp_path: Path) -> None:
    if (snakemake := shutil.which("snakemake")) is None:
        pytest.skip("no snakemake here: pip install snakemake into an environment of its own, and put it on PATH")
    lab = Lab.of(tmp_path, {})
    run = lab.planned(2)
    more = ["--cores", "1", "--config", f"run_dir={run.root}", f"python={sys.executable}"]
    command = [snakemake, "--snakefile", ROOT / "examples" / "Snakefile", *more]
    subprocess.run(command, cwd=tmp_path, env=lab.environment(), check=True, timeout=900)
    found = run.compared()
    assert (found["lost"], found["added"], found["duplicated"]) == (0, 0, 0)
    assert found["difference"] <= 1e-6


@pytest.mark.slow
def test_daemons_end_with_the_process_that_wanted_them(tmp_path: Path) -> None:
    if why := lacking():
        pytest.skip(why)
    folder = Path("/tmp") / f"slurm-{os.getpid()}"
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        subprocess.run([HERE / "slurm_up.sh", folder, str(owner.pid)], check=True, timeout=120)
        pids = [int(pid) for pid in (folder / "pids").read_text().split()]
        assert len(pids) == 3
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        owner.kill()
        subprocess.run([HERE / "slurm_down.sh", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_without_slurm_its_tests_say_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "shutil.which", lambda name, path=None: None if name in ("slurmd", "munged") else f"/bin/{name}"
    )
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert lacking() == "no SLURM here: slurmd, munged not found (tests/cluster/install.sh installs it on Debian)"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert lacking() == "no SLURM here: its daemons need root"


@pytest.mark.slow
def test_a_sweep_and_a_study_run_on_slurm_with_what_depends_on_what(lab: Lab) -> None:
    small = [*DATA, "pairs.kinds=[partial_match]", "pairs.count=3", "metric=[evidence]"]
    more = write_value([*small, "train.epochs=1", "explainer=[sfam,lafam]"])
    grid = ["sweep=losses", "~sweep.train.loss", "sweep.train.pooling=[gap]", "sweep.evaluate.similarity=[cosine,dot]"]
    slurm = ["launcher=slurm", "cluster.cpus=1"]
    said = lab.script("sweep", *grid, f"more={more}", *slurm, "report=false", f"out={lab.folder / 'sweep'}")
    submitted = re.search(r"submitted: (\d+), (\d+);", said)  # trainings, and evaluations that depend on them
    assert submitted
    assert "3 jobs: 3 done" in lab.script("submit", "status", f"run_dir={lab.folder / 'sweep'}")
    (second,) = lab.folder.glob(f"sweep/logs/{submitted[2]}_submission.sh")
    assert f"--dependency=afterany:{submitted[1]}" in second.read_text()
    study = ["objective=evidence_energy", "trials=5", f"run_dir={lab.folder / 'study'}"]
    assert "tuned: " in lab.script("tune", *small, UNTRAINED, *study, *slurm)
    assert "6 jobs: 6 done" in lab.script("submit", "status", f"run_dir={lab.folder / 'study'}")
