"""Which faults do the tests catch? python -m benchmarks.mutation [PACKAGE ...]: each is planted alone, and tests run.

A fault is one exact replacement of text in a copy of the repository. The tests of its file run first, then those of
its package, then all others; without the slow ones (`make test`), and where none fails, the same with every tensor's
shape checked, then the slow ones (`make test-all`). A fault that no test catches needs a new test.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "bench" / "mutation.json"
KINDS = (
    ("test", ["-m", "not slow"]),
    ("test-all", ["-m", "not slow", "-p", "tests.shapes"]),
    ("test-all", ["-m", "slow"]),
)
LONGEST = 1800  # seconds of one run of tests, after which the fault counts as one that makes them hang
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Fault:
    """One wrong line: what is wrong with it, its file below sfam_bench/, its tests, and the text."""

    name: str
    file: str
    tests: str
    right: str
    wrong: str

    @property
    def package(self) -> str:
        """The folder of its file, and of its tests."""
        return self.file.split("/")[0]


FAULTS = [
    Fault(
        "no sign of a term",
        "explainers/sfam.py",
        "test_identities.py",
        "weights = weights + slope * self._normalised(",
        "weights = weights + self._normalised(",
    ),
    Fault(
        "no sign of a power",
        "explainers/sfam.py",
        "test_sfam.py",
        "pooled.sign() * pooled.abs().pow(gamma)",
        "pooled.abs().pow(gamma)",
    ),
    Fault(
        "a mean over one of two axes",
        "explainers/grad_cam.py",
        "test_activation_methods.py",
        "target_gradient(model, encoded).mean(dim=(2, 3))",
        "target_gradient(model, encoded).mean(dim=2)[:, :, 0]",
    ),
    Fault(
        "no rectification",
        "explainers/layer_cam.py",
        "test_activation_methods.py",
        "target_gradient(model, encoded).relu() *",
        "target_gradient(model, encoded) *",
    ),
    Fault("swapped axes", "explainers/shared/forms.py", "test_identities.py", "bk,bkij->bij", "bk,bkij->bji"),
    Fault(
        "no normalisation",
        "explainers/shared/forms.py",
        "test_identities.py",
        "return form / norm(embeddings).detach()[:, 0] if model.embedder.normalise else form",
        "return form",
    ),
    Fault(
        "shifts of rows and columns swapped",
        "explainers/shared/masking.py",
        "test_masking.py",
        "self.row_shifts * widths + self.col_shifts",
        "self.col_shifts * widths + self.row_shifts",
    ),
    Fault(
        "a mean over pairs, not over masks",
        "explainers/rise.py",
        "test_rise_family.py",
        "target - target.mean(dim=1, keepdim=True)",
        "target - target.mean(dim=0, keepdim=True)",
    ),
    Fault(
        "steps begin at zero",
        "explainers/shared/quadrature.py",
        "test_pixels.py",
        'if rule == "midpoint" else 1.0',
        'if rule == "midpoint" else 0.0',
    ),
    Fault(
        "reversed walk",
        "metrics/shared/walks.py",
        "test_walks.py",
        'start, finish = ends if self.direction == "deletion" else ends[::-1]',
        'start, finish = ends[::-1] if self.direction == "deletion" else ends',
    ),
    Fault(
        "reverse order begins at one",
        "metrics/shared/walks.py",
        "test_walks.py",
        "ranks.numel() - 1 - ranks",
        "ranks.numel() - ranks",
    ),
    Fault(
        "flipped sign of a gap",
        "metrics/shared/walks.py",
        "test_perturbation.py",
        "first - second[0]",
        "second[0] - first",
    ),
    Fault(
        "no absolute value",
        "metrics/perturbation.py",
        "test_perturbation.py",
        "(ours - full).abs()",
        "(ours - full)",
    ),
    Fault(
        "rows counted in columns",
        "metrics/localisation.py",
        "test_localisation.py",
        "peak // len(cols)",
        "peak // len(rows)",
    ),
    Fault(
        "negative parts count",
        "metrics/localisation.py",
        "test_localisation.py",
        "positive = maps.clamp_min(0)",
        "positive = maps.abs()",
    ),
    Fault(
        "places counted from two",
        "metrics/localisation.py",
        "test_localisation.py",
        "gather(1, until - 1) / until",
        "gather(1, until - 1) / (until + 1)",
    ),
    Fault(
        "flipped sign of the end correction",
        "metrics/shared/steps.py",
        "test_perturbation.py",
        "np.subtract.at(weights, [1, -2], 1 / 12",
        "np.add.at(weights, [1, -2], 1 / 12",
    ),
    Fault(
        "rising factors",
        "statistics/comparisons.py",
        "test_comparisons.py",
        "np.arange(len(order), 0, -1)",
        "np.arange(1, len(order) + 1)",
    ),
    Fault(
        "one-sided test",
        "statistics/comparisons.py",
        "test_comparisons.py",
        "totals = np.abs(_flipped_totals(own, draws, seed))",
        "totals = _flipped_totals(own, draws, seed)",
    ),
    Fault(
        "wrong quantile",
        "statistics/intervals.py",
        "test_intervals.py",
        "half = scipy.stats.t.ppf((1 + level) / 2,",
        "half = scipy.stats.t.ppf(level,",
    ),
    Fault(
        "no correction for leverage",
        "statistics/intervals.py",
        "test_intervals.py",
        " / np.sqrt(1 - sizes / total)",
        "",
    ),
    Fault(
        "quantile one place too far",
        "statistics/intervals.py",
        "test_intervals.py",
        "at = shares * (len(ordered) - 1)",
        "at = shares * len(ordered)",
    ),
    Fault(
        "least is best",
        "statistics/agreement.py",
        "test_agreement.py",
        "stats.rankdata(-complete, axis=1)",
        "stats.rankdata(complete, axis=1)",
    ),
    Fault("no correction for ties", "statistics/agreement.py", "test_agreement.py", " - raters * ties", ""),
    Fault(
        "a tie counts as lost",
        "statistics/worth.py",
        "test_worth.py",
        "(np.sign(sign * ahead) + 1) / 2",
        "(sign * ahead > 0).astype(float)",
    ),
    Fault("the last chunk is not due", "runs/store.py", "test_store.py", "in range(chunks)", "in range(chunks - 1)"),
    Fault(
        "milliseconds a chunk, not a pair",
        "runs/store.py",
        "test_store.py",
        "1000 * spent[name] / pairs",
        "1000 * spent[name] / len(notes)",
    ),
    Fault("a lost chunk is no loss", "runs/reader.py", "test_store.py", " or there < planned", ""),
    Fault(
        "a wrong digest is accepted",
        "runs/chunks.py",
        "test_store.py",
        "if seal != _sha256(before + _seal(BLANK) + after)",
        "if not seal",
    ),
    Fault(
        "batches begin at the second pair",
        "jobs/merge.py",
        "test_merge.py",
        "accumulate(plan.batches, initial=0)",
        "accumulate(plan.batches, initial=1)",
    ),
    Fault(
        "a missing batch is not noted",
        "jobs/merge.py",
        "test_merge.py",
        "self.merged.missing.append(number)",
        "pass",
    ),
    Fault(
        "a shard counts the next batch too",
        "jobs/plan.py",
        "test_plan.py",
        "self.batches[shard.first : shard.last]",
        "self.batches[shard.first : shard.last + 1]",
    ),
    Fault(
        "a job beside those it needs",
        "jobs/job.py",
        "test_slurm_words.py",
        "depth[job.id] = 1 + max(",
        "depth[job.id] = max(",
    ),
    Fault(
        "done with one result of several",
        "jobs/job.py",
        "test_status.py",
        "and all((root / name).is_file()",
        "and any((root / name).is_file()",
    ),
    Fault(
        "done without its results",
        "jobs/status.py",
        "test_status.py",
        "if job.id in done and there == len(job.results)",
        "if job.id in done",
    ),
]


@dataclass(eq=False)  # pytest keeps plugins in sets
class FirstFailure:
    """A plugin of pytest: the first test, or file that cannot be imported, which fails."""

    found: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.found.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.found.append(report.nodeid)


def run_tests(tree: Path, arguments: Sequence[str], answer: Any) -> None:
    """Run pytest in this process, in a tree; send its exit code, and the first failure or ''."""
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    first = FirstFailure()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        code = pytest.main(["-x", "-p", "no:cacheprovider", *arguments], plugins=[first])
    answer.send((code, first.found[0] if first.found else ""))


def find_failure(tree: Path, arguments: Sequence[str]) -> str:
    """The first test that fails, '' where none does; RuntimeError where pytest itself did not work."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=run_tests, args=(tree, arguments, send))
    process.start()
    send.close()
    try:
        if not receive.poll(LONGEST):
            return f"{arguments[-1]} (no end in {LONGEST} s)"
        code, found = receive.recv()
    except EOFError:
        return f"{arguments[-1]} (its process ended)"
    finally:
        process.kill()
        process.join()
    if not found and code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest {' '.join(arguments)} ended with {code!r}")
    return str(found)


@contextmanager
def planted(tree: Path, fault: Fault) -> Iterator[None]:
    """The tree with the fault in it; ValueError unless its text is there, once."""
    path = tree / "sfam_bench" / fault.file
    text = path.read_text()
    if (count := text.count(fault.right)) != 1:
        raise ValueError(
            f"{fault.file} holds {fault.right!r} {count} times, expected once: change benchmarks/mutation.py"
        )
    path.write_text(text.replace(fault.right, fault.wrong))
    try:
        yield
    finally:
        path.write_text(text)


def judge(tree: Path, fault: Fault) -> dict[str, str]:
    """The first failing test of `make test`, and of `make test-all`; '' where the fault is not caught."""
    folder = f"tests/{fault.package}"
    places = [f"{folder}/{fault.tests}"], [folder], ["tests", f"--ignore={folder}"]
    with planted(tree, fault):
        for kind, more in KINDS:
            for place in places:
                if found := find_failure(tree, [*more, *place]):
                    return {"test": found if kind == "test" else "", "test-all": found}
    return {"test": "", "test-all": ""}


def copy_tree(to: Path) -> None:
    """Copy the files that git knows."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="folders of sfam_bench/; without any, all faults")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    PROCESSES.set_forkserver_preload(["torch", "pandas", "scipy.stats", "hydra", "hypothesis", "sklearn.metrics"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for fault in (fault for fault in FAULTS if not given.packages or fault.package in given.packages):
            rows.append({"fault": fault.name, "file": fault.file, **judge(tree, fault)})
            print(*rows[-1].values(), sep=" | ", flush=True)
    counts = {kind: sum(bool(row[kind]) for row in rows) for kind in ("test", "test-all")}
    print(f"{len(rows)} faults, caught by make test {counts['test']}, by make test-all {counts['test-all']}")
    given.out.write_text(json.dumps({"faults": len(rows), **counts, "table": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
