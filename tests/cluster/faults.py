"""Accidents on a cluster, each brought about several times: python -m tests.cluster.faults [NAME ...].

After each, `run` is repeated where the first one did not complete, the pieces are merged, and the records are set
beside those of one uninterrupted process. The table goes to results/tables/cluster/faults.csv and .md.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sfam_bench.jobs.plan import Plan
from tests.cluster.lab import ALLOW, Lab, PlannedRun, lacking, slurm, until
from tests.paths import ROOT

SLURM = ("launcher=slurm", "cluster.cpus=1")
TWO = (*SLURM, "cluster.at_once=2")
HERE = ("launcher=local", "workers=2")
OUT = ROOT / "results" / "tables" / "cluster"
Inflict = Callable[[PlannedRun, int], None]


@dataclass(frozen=True)
class Fault:
    """What happens: `inflict` is given a run and one of the moments, each a number that it interprets."""

    name: str
    inflict: Inflict
    moments: tuple[int, ...]
    shards: int = 3


FAULTS: dict[str, Fault] = {}
NO_FAULT = "this was no fault"


def fault(name: str, *moments: int, shards: int = 3) -> Callable[[Inflict], Inflict]:
    """Enter a function in the list."""

    def enter(inflict: Inflict) -> Inflict:
        FAULTS[inflict.__name__] = Fault(name, inflict, moments, shards)
        return inflict

    return enter


def must(true: bool, what: str) -> None:
    """Stop where a fault did not happen as it should: it would prove nothing."""
    if not true:
        raise RuntimeError(f"{NO_FAULT}: {what}")


@fault("none: an array of 7 tasks", 0, shards=7)
def array(run: PlannedRun, _: int) -> None:
    run.start(*SLURM)
    code, err = run.ended()
    must(code == 0, f"an array that nothing befell ended with {code}: {err}")


@fault("none: one task", 0, shards=1)
def single(run: PlannedRun, _: int) -> None:
    array(run, 0)


@fault("none: two tasks at once, a GPU each", 0)
def gpus(run: PlannedRun, _: int) -> None:
    run.start(*SLURM, "cluster.gpus=1", PAUSE="0.3")
    seen = until(lambda: visible(run) if len(visible(run)) == 2 else None, "two tasks at once")
    must(sorted(seen) == ["0", "1"], f"two tasks see GPUs {seen}")
    run.no_pause.touch()


def visible(run: PlannedRun) -> list[str]:
    """The GPU of each task at work."""
    found = []
    for note in run.at_work():
        try:
            variables = Path(f"/proc/{note['pid']}/environ").read_text().split("\0")
        except OSError:
            continue
        found += [text.split("=")[1] for text in variables if text.startswith("CUDA_VISIBLE_DEVICES=")]
    return found


@fault("preempted by a job of a better partition", 2, 10, 18)
def preemption(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="2")  # SLURM ends the time of grace late
    run.pieces(moment)
    run.lab.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: run.restarts() > 0, "tasks that are begun again")
    run.no_pause.touch()


@fault("out of time", 10, 20, shards=1)
def timeout(run: PlannedRun, warning: int) -> None:
    process = run.start(*TWO, "cluster.minutes=1", f"cluster.warning={warning}", PAUSE="1.2")
    until(lambda: run.restarts() > 0 or process.poll() is not None, "a task that ran out of time", 900, every=1)
    run.no_pause.touch()
    must(run.ended()[0] == 0, "a task that ran out of time is not queued again")
    must(run.restarts() > 0, "the task was done in time")


@fault("one task cancelled by scancel", 2, 20, 45)
def scancel_task(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="0.3")
    run.pieces(moment)
    job = until(run.at_work, "a task at work")[0]["slurm"]
    run.lab.ask("scancel", job)
    must(run.ended()[0] != 0, "the task was not cancelled")


@fault("the whole array cancelled by scancel", 2, 30)
def scancel_array(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="0.3")
    run.pieces(moment)
    run.lab.ask("scancel", *run.arrays())
    must(run.ended()[0] != 0, "the array was not cancelled")


@fault("cancelled by submit.py cancel", 0, 1)
def cancel(run: PlannedRun, local: int) -> None:
    run.start(*(HERE if local else TWO), PAUSE="0.3")
    run.pieces(8)
    run.lab.script("submit", "cancel", f"run_dir={run.root}")
    must(run.ended()[0] != 0, "the run was not cancelled")


@fault("node drained, and resumed", 5)
def drain(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="0.3")
    run.pieces(moment)
    node(run, "state=drain", "reason=fault")
    until(lambda: "draining" not in run.lab.ask("sinfo", "--noheader", "--format=%T"), "a node that is drained")
    node(run, "state=resume")


@fault("node down, and back", 5, 30)
def down(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="0.3")
    run.pieces(moment)
    node(run, "state=down", "reason=fault")
    for note in run.at_work():  # with a node its processes end
        os.kill(note["pid"], signal.SIGKILL)
    time.sleep(3)
    if "down" in run.lab.ask("sinfo", "--noheader", "--format=%T"):  # it may have come back by itself
        node(run, "state=resume")
    until(lambda: run.restarts() > 0, "tasks that are begun again")


def node(run: PlannedRun, *words: str) -> None:
    """Do as an administrator does with the node."""
    run.lab.ask("scontrol", "update", f"nodename={socket.gethostname().split('.')[0]}", *words)


@fault("SIGKILL of a task", 2, 20, 45)
def kill_task(run: PlannedRun, moment: int) -> None:
    run.start(*TWO, PAUSE="0.3")
    run.pieces(moment)
    os.kill(until(run.at_work, "a task at work")[0]["pid"], signal.SIGKILL)
    run.no_pause.touch()
    must(run.ended()[0] != 0, "the task lived on")


@fault("SIGKILL of the process that waits for SLURM", 0, 20)
def kill_waiting(run: PlannedRun, moment: int) -> None:
    process = run.start(*TWO, PAUSE="0.3")
    until(run.arrays, "a submitted array")
    run.pieces(moment)
    run.kill(process)


@fault("SIGKILL of a local worker", 2, 20, 45)
def kill_worker(run: PlannedRun, moment: int) -> None:
    run.start(*HERE, PAUSE="0.3")
    run.pieces(moment)
    os.kill(until(run.at_work, "a worker")[0]["pid"], signal.SIGKILL)


@fault("SIGKILL of the local driver; its workers go on", 2, 30)
def kill_driver(run: PlannedRun, moment: int) -> None:
    process = run.start(*HERE, PAUSE="0.3")
    run.pieces(moment)
    run.kill(process)


@fault("SIGKILL of the local driver and its workers", 0, 2, 30)
def kill_all(run: PlannedRun, moment: int) -> None:
    process = run.start(*HERE, PAUSE="0.3")
    run.pieces(moment)
    os.killpg(process.pid, signal.SIGKILL)


@fault("SIGTERM to the local driver", 20)
def terminate(run: PlannedRun, moment: int) -> None:
    process = run.start(*HERE, PAUSE="0.3")
    run.pieces(moment)
    process.terminate()
    must(run.ended()[0] == 128 + signal.SIGTERM, "the driver did not stop")


@fault("disk full, then room is made", 100, 200, 300)
def disk_full(run: PlannedRun, kilobytes: int) -> None:
    used = sum(path.stat().st_blocks * 512 for path in run.root.rglob("*")) // 1024
    with mounted(run, used + kilobytes):
        run.start(*HERE)
        code, err = run.ended()
        said = err + "".join(log.read_text() for log in (run.root / "logs").glob("*.log"))
        must(code != 0 and "disk is full" in said, f"the disk was not full: {said}")
        subprocess.run(["mount", "-o", "remount,size=64m", run.root], check=True)
        run.finish()  # before the disk goes
        moved = Path(tempfile.mkdtemp(dir=run.lab.folder))
        subprocess.run(["cp", "-a", f"{run.root}/.", moved], check=True)
    subprocess.run(["cp", "-a", f"{moved}/.", run.root], check=True)
    run.first = None


class mounted:
    """A small disk at the folder of a run, which holds the plan."""

    def __init__(self, run: PlannedRun, kilobytes: int) -> None:
        self.root, self.size = run.root, kilobytes

    def __enter__(self) -> None:
        with tempfile.TemporaryDirectory() as aside:
            subprocess.run(["cp", "-a", f"{self.root}/.", aside], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}k", "tmpfs", self.root], check=True)
            subprocess.run(["cp", "-a", f"{aside}/.", self.root], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.root], check=True)


@fault("a batch file damaged on disk", *range(6))
def corrupt(run: PlannedRun, kind: int) -> None:
    run.start(*HERE)
    must(run.ended()[0] == 0, "the run did not complete")
    path = run.root / ("records", "curves")[kind % 2] / "00009.parquet"
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 32]) + data[middle + 32 :]
    path.write_bytes((flipped, data[:middle], b"")[kind // 2])
    run.lab.script("submit", "merge", f"run_dir={run.root}", code=2)
    run.first = None


@fault("two processes compute the same shards", 0, 1)
def two_writers(run: PlannedRun, _: int) -> None:
    shards = [shard.id for shard in Plan.read(run.root).shards]
    both = [run.lab.begin("work", ALLOW, f"run_dir={run.root}", f"job={shard}") for shard in shards[:2] for _ in "ab"]
    for process in both:
        _, err = process.communicate(timeout=300)
        second = "is being computed by process" in err  # came later, and was refused
        must(process.returncode == 0 or second, f"a writer failed: {err}")
    run.launcher = [f"run_dir={run.root}", "wait=true", ALLOW, *HERE]


@fault("two `run` at once", 0, 10)
def two_runs(run: PlannedRun, moment: int) -> None:
    run.start(*HERE, PAUSE="0.3")
    until((run.root / "run.lock").exists, "a run that has begun")
    run.pieces(moment)
    refused = run.lab.script("submit", "run", *run.launcher, code=2)
    must("another run is active" in refused, f"a second run was not refused: {refused}")


@fault("a pair that cannot be explained, then can", 0, 1)
def poisoned(run: PlannedRun, local: int) -> None:
    pairs = pd.read_parquet(run.root / "pairs.parquet")
    query = str(pairs["query_id"].iloc[len(pairs) // 3])
    run.start(*(HERE if local else TWO), POISON=query)
    code, err = run.ended()
    must(code == 2 and "failed" in err and "poisoned" in err, f"nothing was said of the pair: {code} {err}")
    refused = run.lab.script("submit", "merge", f"run_dir={run.root}", code=2)
    must(query in refused, f"the merge does not name the pair: {refused}")
    run.lab.script("submit", "merge", f"run_dir={run.root}", "partial=true")
    found = run.compared(unfinished=True)
    must(found["lost"] > 0 and found["added"] == 0, f"a partial merge: {found}")
    run.first = None


@fault("none: an array of 64 tasks", 0, shards=64)
def many(run: PlannedRun, _: int) -> None:
    array(run, 0)


def tried(lab: Lab, name: str, moments: Sequence[int] = ()) -> list[dict[str, object]]:
    """Bring a fault about at each of its moments, or at these; one row each."""
    rows = []
    for moment in moments or FAULTS[name].moments:
        run = lab.planned(FAULTS[name].shards)
        start = time.monotonic()
        FAULTS[name].inflict(run, moment)
        run.finish()
        found = {"fault": FAULTS[name].name, "moment": moment, "run_again": run.again, **run.compared()}
        rows.append({**found, "seconds": round(time.monotonic() - start)})
    return rows


def table(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """A row a fault: how often, and the sums over all times; no step but `run` and `merge` was ever taken."""
    grouped = pd.DataFrame(rows).groupby("fault", sort=False)
    sums = grouped[["lost", "added", "duplicated"]].sum()
    shown = {"injected": grouped.size(), **{name: sums[name] for name in sums}}
    return pd.DataFrame(
        {**shown, "largest_difference": grouped["difference"].max(), "run_again": grouped["run_again"].max()}
    )


def main(names: Sequence[str]) -> int:
    """Try faults, all or some, and say how they went; the exit code."""
    if unknown := [name for name in names if name not in FAULTS]:
        print(f"error: no fault {unknown[0]}: choose among {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    if why := lacking():
        print(f"error: {why}", file=sys.stderr)
        return 2
    rows, failed = list[dict[str, object]](), 0
    with tempfile.TemporaryDirectory(prefix="faults") as folder, slurm() as env:
        lab = Lab.of(Path(folder), env)
        for name in names or FAULTS:
            try:
                rows += (found := tried(lab, name))
                keep(found)
                print(f"{name}: {found}", flush=True)
            except Exception as error:  # the other faults tell more
                failed += 1
                print(f"{name} FAILED: {error}", file=sys.stderr, flush=True)
    if rows:
        made = table(rows)
        print(made.to_string())
        wrong = made["lost"] + made["added"] + made["duplicated"] + ~(made["largest_difference"] <= 1e-6)
        failed += int((wrong > 0).sum())
    return 1 if failed else 0


def keep(rows: Sequence[dict[str, object]]) -> None:
    """Put rows into the table in the place of those of the same faults."""
    OUT.mkdir(parents=True, exist_ok=True)
    new, path = pd.DataFrame(rows), OUT / "faults.csv"
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old["fault"].isin(new["fault"])], new], ignore_index=True)
    order = [known.name for known in FAULTS.values()]
    new = new[new["fault"].isin(order)].sort_values("fault", key=lambda names: names.map(order.index), kind="stable")
    new.to_csv(path, index=False)
    (OUT / "faults.md").write_text(markdown(table(new.to_dict("records"))))


def markdown(made: pd.DataFrame) -> str:
    """The table as a page shows it."""
    lines = ["| fault | injected | records lost | duplicated | manual steps | `run` repeated | largest difference |"]
    lines.append("|---|" + "---:|" * 6)
    for name, row in made.iterrows():
        counts = [row["injected"], row["lost"], row["added"] + row["duplicated"], 0, row["run_again"]]
        lines.append(
            f"| {name} | {' | '.join(str(int(count)) for count in counts)} | {row['largest_difference']:.0e} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
