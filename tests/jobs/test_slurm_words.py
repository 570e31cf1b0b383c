"""What SLURM is asked and what its answers mean, by stand-ins of its commands."""

import os
from pathlib import Path

import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.jobs import slurm


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def command(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_queue_is_told_by_shard(commands: Path) -> None:
    answer = [
        "7_0|RUNNING|None",
        "7_1|PENDING|Priority",
        "9|COMPLETING|None",
        "8_0|PENDING|launch failed requeued held",
        "8_1|PENDING|DependencyNeverSatisfied",
    ]
    (commands / "answer").write_text("\n".join(answer) + "\n")
    command(commands, "squeue", f'echo "$@" > {commands}/asked; cat {commands}/answer')
    found = slurm.queue({"a": "7_0", "b": "7_1", "c": "7_2", "d": "9", "e": "8_0", "f": "8_1"})
    assert found == {"a": "running", "b": "queued", "d": "running", "e": "held", "f": "held"}
    asked = ["--noheader", "--array", "--jobs", "7,8,9", "--format", "%i|%T|%r"]
    assert (commands / "asked").read_text().split() == asked


def test_jobs_that_slurm_has_forgotten_are_gone(commands: Path) -> None:
    command(commands, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert slurm.queue({"a": "7_0"}) == {}


def test_a_controller_that_is_down_is_said(commands: Path) -> None:
    command(commands, "squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(UserError, match=r"squeue failed .*Unable to contact slurm controller.*: is SLURM up\?"):
        slurm.queue({"a": "7_0"})


def test_nothing_is_asked_about_nothing(commands: Path) -> None:
    command(commands, "squeue", "exit 1")
    command(commands, "scancel", "exit 1")
    assert slurm.queue({}) == {}
    slurm.cancel([])


def test_jobs_are_cancelled_once_and_unknown_ones_do_no_harm(commands: Path) -> None:
    command(commands, "scancel", f'echo "$@" > {commands}/asked; echo "scancel: error: Invalid job id 12" >&2; exit 1')
    slurm.cancel(["7_0", "7_0", "12"])
    assert (commands / "asked").read_text().split() == ["12", "7_0"]


def test_without_slurm_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="SLURM is not installed here"):
        slurm.batch_script(slurm.Request(), tmp_path, 3)
    with pytest.raises(UserError, match="cannot ask SLURM"):
        slurm.queue({"a": "1_0"})


def test_the_script_asks_for_what_was_asked(commands: Path, tmp_path: Path) -> None:
    command(commands, "srun", "exit 1")
    request = slurm.Request("lab", "gpu", gpus=1, cpus=4, memory=16, minutes=30, setup=["module load cuda"], at_once=8)
    lines = slurm.batch_script(request, tmp_path / "logs", 40).splitlines()
    wanted = {
        *("--account=lab", "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=4", "--mem=16GB", "--time=30"),
        *("--array=0-39%8", "--signal=USR2@90", "--open-mode=append"),
    }
    assert wanted <= {line.removeprefix("#SBATCH ") for line in lines}
    assert lines.index("module load cuda") < next(i for i, line in enumerate(lines) if line.startswith("srun"))
    plain = slurm.batch_script(slurm.Request(), tmp_path / "logs", 1)
    assert not any(word in plain for word in ("--account", "--partition", "--gpus", "--mem"))


def test_what_sbatch_refuses_is_said(commands: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command(commands, "srun", "exit 1")
    command(commands, "sbatch", 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1')
    with pytest.raises(UserError, match="sbatch refused the array for the reason above: check cluster"):
        slurm.submit(slurm.Request(partition="gpu"), tmp_path / "logs", {"a": int, "b": int})
    assert "invalid partition specified: gpu" in capfd.readouterr().err


def test_more_than_an_array_holds_are_several(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(commands, "srun", "exit 1")
    command(commands, "sbatch", f'echo x >> {commands}/n; echo "Submitted batch job $(wc -l < {commands}/n)"')
    monkeypatch.setattr(slurm, "MOST", 2)
    found = slurm.submit(slurm.Request(), tmp_path / "logs", dict.fromkeys("abcde", int))
    assert found == {"a": "1_0", "b": "1_1", "c": "2_0", "d": "2_1", "e": "3"}


def test_what_is_submitted_does_not_inherit_the_job_that_submits_it(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(commands, "srun", "exit 1")
    command(commands, "sbatch", f'env > {commands}/seen; echo "Submitted batch job 1"')
    inherited = {
        **{"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_PER_TASK": "1", "SLURM_NTASKS": "2"},
        **{"SLURM_MEM_PER_NODE": "9", "SLURMD_NODENAME": "n", "SRUN_DEBUG": "3", "SBATCH_CPU_BIND": "x"},
        **{"SBATCH_PARTITION": "other", "SBATCH_TIMELIMIT": "1", "CUDA_VISIBLE_DEVICES": "3"},
    }
    kept = {"SLURM_CONF": "/etc/x.conf", "SBATCH_ACCOUNT": "vision", "SBATCH_QOS": "low", "OWN": "1"}
    for name, value in {**inherited, **kept}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    slurm.submit(slurm.Request(partition="gpu"), tmp_path / "logs", {"a": int})
    seen = dict(line.split("=", 1) for line in (commands / "seen").read_text().splitlines() if "=" in line)
    assert not inherited.keys() & seen.keys()
    assert kept.items() <= seen.items()
    assert dict(os.environ) == before
    monkeypatch.delenv("SLURM_JOB_ID")
    slurm.submit(slurm.Request(account="lab"), tmp_path / "logs", {"a": int})
    seen = dict(line.split("=", 1) for line in (commands / "seen").read_text().splitlines() if "=" in line)
    assert "SBATCH_ACCOUNT" not in seen  # it would win over cluster.account
    assert seen["SBATCH_PARTITION"] == "other"
    assert seen["CUDA_VISIBLE_DEVICES"] == "3"  # of the user, and of no job


def test_what_others_need_is_an_array_of_its_own_that_the_others_depend_on(commands: Path, tmp_path: Path) -> None:
    command(commands, "srun", "exit 1")
    command(
        commands,
        "sbatch",
        f'for file; do :; done; echo x >> {commands}/n; n=$(wc -l < {commands}/n); cp "$file" {commands}/script-$n; '
        'echo "Submitted batch job $n"',
    )
    after = {"c": ["a"], "d": ["b", "z"], "e": ["c"]}
    found = slurm.submit(slurm.Request(), tmp_path / "logs", dict.fromkeys("abcde", int), after, {"z": "77_3"})
    assert found == {"a": "1_0", "b": "1_1", "c": "2_0", "d": "2_1", "e": "3"}
    asked = [(commands / f"script-{number}").read_text() for number in (1, 2, 3)]
    assert ["--dependency" in text for text in asked] == [False, True, True]
    assert "--dependency=afterany:1:77" in asked[1]
    assert "--dependency=afterany:2" in asked[2]
