"""Evaluations that are continued: by the same mode, code, pairs and settings, or one line that says what differs."""

import os
import random
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from torch import nn

from sfam_bench.core.files import acquire_lock, host, read_json
from sfam_bench.core.provenance import running_code
from sfam_bench.engine import modes
from sfam_bench.runs.chunks import read_footer
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.reader import read_records, read_run
from sfam_bench.runs.store import RunStore
from tests.paths import ROOT, UNTRAINED
from tests.processes import PROCESSES, preload
from tests.scripts import DATA, Run, refused

pytestmark = pytest.mark.slow
preload("sfam_bench.app.evaluation")

PAIRS = ["pairs.kinds=[random_positive]", "pairs.count=8", "batch_size=2", "steps.intervals=4", "min_range=0.0"]
CHOSEN = ["explainer=[sfam,lafam]", "metric=[deletion]", "passes.payback=0.0", "passes.cache=null"]
SMALL = [*DATA, *PAIRS, *CHOSEN]


def rounded(model: nn.Module, batch: object) -> modes.Function:
    """A mode that is true to the tolerance, and gives other bits."""
    function = modes.eager(model, batch)  # type: ignore[arg-type]
    return lambda images: function(images) + 1e-4


@contextmanager
def two_modes() -> Iterator[None]:
    """A machine that has eager, and a mode with other results that is as fast."""
    made = {"eager": modes.eager, "half": rounded}
    with (
        patch.dict("sfam_bench.engine.calibration.MODES", made, clear=True),
        patch("sfam_bench.engine.calibration.available", lambda device: list(made)),
    ):
        yield


@contextmanager
def fastest(mode: str) -> Iterator[None]:
    """A machine on which this mode is the fastest at the moment."""

    def rate(function: modes.Function, *_: object) -> float:
        return 2.0 if (function.__name__ == "<lambda>") == (mode == "half") else 1.0

    with two_modes(), patch("sfam_bench.engine.calibration.rate", rate):
        yield


@pytest.fixture(scope="module")
def whole(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, in the mode half."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with fastest("half"):
        code, _, err = run_script("evaluate", *SMALL, f"run_dir={run}")
    assert code == 0, err
    return run


@pytest.fixture
def interrupted(whole: Path, tmp_path: Path) -> Path:
    """The same, of which one batch is there."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for kind in ("records", "curves", "costs"):
        for path in sorted((run / kind).iterdir())[1:]:
            path.unlink()
    RunStore(run).write_manifest({**read_manifest(run), "done": False})
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in sorted((run / "records").glob("*"))}


@contextmanager
def other_code() -> Iterator[None]:
    running_code.cache_clear()
    with patch("sfam_bench.core.provenance.code_hash", lambda: "f" * 16):
        yield
    running_code.cache_clear()


def holding(path: Path, ready: object, done: object) -> None:
    with acquire_lock(path, "x"):
        ready.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_a_second_evaluation_in_one_folder_is_refused(run_script: Run, whole: Path, interrupted: Path) -> None:
    ready, done = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=holding, args=(interrupted / ".evaluating", ready, done))
    other.start()
    assert ready.wait(60)
    try:
        with two_modes():
            given = (*SMALL, f"run_dir={interrupted}", "resume=true")
            refused(run_script("evaluate", *given), "is being evaluated by another process", str(other.pid))
            done.set()
            other.join()
            assert run_script("evaluate", *given)[0] == 0
    finally:
        other.kill()
    assert contents(interrupted) == contents(whole)


def test_the_mode_of_the_first_batch_stays_whatever_is_faster_now(
    run_script: Run, whole: Path, interrupted: Path
) -> None:
    with fastest("eager"):
        code, _, err = run_script("evaluate", *SMALL, f"run_dir={interrupted}", "resume=true")
    assert code == 0, err
    assert contents(interrupted) == contents(whole)
    facts, wanted = read_manifest(interrupted), read_manifest(whole)
    assert facts["passes"] == wanted["passes"]
    assert facts["passes"]["mode"] == "half"
    assert facts["unsupported"] == wanted["unsupported"] == {}
    assert facts["cost"].keys() == {"sfam", "lafam"}
    assert all(cost["milliseconds"] > 0 for cost in facts["cost"].values())
    assert facts["core_hours"] > 0
    said = read_footer(interrupted / "records" / "00002.parquet")["passes"]
    assert said == {name: facts["passes"][name] for name in ("mode", "batch", "threads", "device")}


def test_a_mode_that_is_not_there_any_more_is_refused(run_script: Run, interrupted: Path) -> None:
    before = contents(interrupted)
    with two_modes():
        outcome = run_script("evaluate", *SMALL, f"run_dir={interrupted}", "resume=true", "passes.tolerance=0.0")
    refused(
        outcome,
        *(
            "was started with passes.mode=half, which cannot be used here",
            "continue it on the machine where it was started",
        ),
    )
    assert contents(interrupted) == before


def test_what_differs_from_the_settings_of_the_start_is_named(run_script: Run, interrupted: Path) -> None:
    call = ["evaluate", *SMALL, f"run_dir={interrupted}", "resume=true"]
    refused(run_script(*call, "seed=3", "pairs.count=7"), "pairs.count was 8, is 7", "seed was 0, is 3")
    refused(run_script(*call, "passes.mode=eager"), 'passes.mode was "half", is "eager"')
    refused(run_script(*call, "passes.batch=3"), "passes.batch was 16, is 3")


def test_batches_of_several_modes_are_not_read(run_script: Run, interrupted: Path, whole: Path) -> None:
    said = read_footer(whole / "records" / "00001.parquet")
    records = pd.read_parquet(whole / "records" / "00001.parquet")
    RunStore(interrupted, said["key"], {**said["passes"], "mode": "eager"}).write_chunk(1, records)
    outcome = run_script("report", f"runs=[{interrupted}]", f"out={interrupted}-report", "allow_unfinished=true")
    refused(outcome, "00001.parquet was computed with passes mode eager", "and the run with mode half")
    with fastest("half"):
        code, _, err = run_script("evaluate", *SMALL, f"run_dir={interrupted}", "resume=true")
    assert code == 0, err
    assert "set aside, to be computed again" in err
    kept = {name: content for name, content in contents(interrupted).items() if not name.endswith(".bad")}
    assert kept == contents(whole)


def test_other_code_is_refused_or_said_batch_by_batch(run_script: Run, interrupted: Path, whole: Path) -> None:
    call = ["evaluate", *SMALL, f"run_dir={interrupted}"]
    own = running_code()
    with fastest("half"), other_code():
        refused(run_script(*call, "resume=true"), f'code was "{own}", is "ffffffffffffffff"', "resume=anyway")
        code, _, err = run_script(*call, "resume=anyway")
        assert code == 0, err
        assert run_script(*call, "resume=true")[0] == 0  # it was accepted
    facts = read_manifest(interrupted)
    assert facts["codes"] == {own: "0", "f" * 16: "1-3"}
    assert [one["code"] for one in facts["resumed"]] == ["f" * 16]
    code, _, err = run_script("report", f"runs=[{interrupted}]", f"out={interrupted}-report")
    assert code == 0, err
    (page,) = Path(f"{interrupted}-report").glob("table-*.md")
    assert f"continued with other code: code {own[:10]} batches 0; code ffffffffff batches 1-3" in page.read_text()
    pd.testing.assert_frame_equal(read_records(interrupted), read_records(whole), check_exact=True)


@pytest.mark.parametrize("left", [[], ["config.yaml"]])
def test_a_folder_that_was_begun_and_holds_nothing_is_continued(
    run_script: Run, tmp_path: Path, left: list[str]
) -> None:
    for name in ("records", "maps"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in left:
        (tmp_path / "run" / name).touch()
    refused(run_script("evaluate", *SMALL, f"run_dir={tmp_path / 'run'}"), "pass resume=true to continue it")
    code, _, err = run_script("evaluate", *SMALL, f"run_dir={tmp_path / 'run'}", "passes.mode=eager", "resume=true")
    assert code == 0, err
    assert len(read_run(tmp_path / "run").pairs) == 8


def test_a_folder_without_a_manifest_that_holds_records_is_not_taken(run_script: Run, interrupted: Path) -> None:
    (interrupted / "manifest.json").unlink()
    refused(
        run_script("evaluate", *SMALL, f"run_dir={interrupted}", "resume=true"),
        "is not a run folder (no manifest.json)",
    )


def test_pairs_that_were_changed_or_lost(run_script: Run, interrupted: Path, whole: Path) -> None:
    path = interrupted / "pairs.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    call = ["evaluate", *SMALL, f"run_dir={interrupted}", "resume=true"]
    refused(run_script(*call), "pairs.parquet is damaged or was edited", "delete it and evaluate with resume=true")
    path.unlink()
    with fastest("half"):
        code, _, err = run_script(*call)
    assert code == 0, err
    assert path.read_bytes() == content
    assert contents(interrupted) == contents(whole)


# Kills


def evaluated(overrides: list[str]) -> None:
    """Run the script, with two modes of which either may be the faster, and its output thrown away."""
    sys.argv = ["evaluate.py", *overrides]
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing), two_modes():
        runpy.run_path(str(ROOT / "experiments" / "evaluate.py"), run_name="__main__")


def burn() -> None:
    while True:
        pass


def batches(run: Path) -> int:
    return len(list((run / "records").glob("[0-9]*.parquet")))


def killed_and_continued(run: Path, settings: list[str], kills: int, seed: int, longest: float = 0.5) -> int:
    """Evaluate with so many kills under a changing load, then to the end; returns how many kills came before it.

    Every other kill comes at most `longest` seconds after the start, the rest at most so long after a batch.
    """
    chance, came = random.Random(seed), 0
    for number in range(kills + 1):
        burning = [PROCESSES.Process(target=burn, daemon=True) for _ in range(chance.choice([0, 2]))]
        again = ["resume=true"] if run.exists() and any(run.glob("[!.]*")) else []
        process = PROCESSES.Process(target=evaluated, args=([*settings, f"run_dir={run}", *again],))
        before = batches(run)
        for one in (*burning, process):
            one.start()
        if number < kills:
            while number % 2 and process.is_alive() and batches(run) == before:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, longest))
            came += process.is_alive()
            process.kill()
        process.join()
        for one in burning:
            one.kill()
    assert process.exitcode == 0
    return came


def test_killed_under_changing_load_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = [
        *DATA,
        *PAIRS,
        *CHOSEN[:2],
        UNTRAINED,
        "passes.payback=0.0",
        f"passes.cache={tmp_path / 'passes.json'}",
        "passes.seconds=0.1",
    ]
    assert killed_and_continued(tmp_path / "run", settings, kills=2, seed=0) > 0
    killed_and_continued(tmp_path / "whole", settings, kills=0, seed=0)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    facts, wanted = read_manifest(tmp_path / "run"), read_manifest(tmp_path / "whole")
    assert facts.keys() == wanted.keys()
    assert facts["passes"]["mode"] == wanted["passes"]["mode"]
    assert facts["cost"].keys() == wanted["cost"].keys()
    assert [cost.keys() for cost in facts["cost"].values()] == [cost.keys() for cost in wanted["cost"].values()]
    assert facts["unsupported"] == wanted["unsupported"]
    (known,) = read_json(tmp_path / "passes.json", "").values()
    assert facts["passes"]["mode"] in known["rates"]


def test_what_a_killed_writer_left_is_removed(run_script: Run, whole: Path, interrupted: Path) -> None:
    left = interrupted / "records" / f".00001.parquet.{host()}.{2**22 + 1}.00000000.tmp"  # a process that cannot be
    left.write_bytes(b"PAR1")
    with two_modes():
        assert run_script("evaluate", *SMALL, f"run_dir={interrupted}", "resume=true")[0] == 0
    assert contents(interrupted) == contents(whole)


def test_an_explainer_of_ones_own_that_was_edited_is_other_code(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from sfam_bench.explainers.sfam import SFAM\n\n\nclass Mine(SFAM):\n    pass\n"
    (tmp_path / "mine_of_resume.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    own = "+explainer.mine={_target_: mine_of_resume.Mine}"
    call = ["evaluate", *SMALL, own, "passes.mode=eager", f"run_dir={tmp_path / 'run'}"]
    code, _, err = run_script(*call)
    assert code == 0, err
    assert run_script(*call, "resume=true")[0] == 0
    (tmp_path / "mine_of_resume.py").write_text(f"{source}    gamma = 2.0\n")
    refused(run_script(*call, "resume=true"), "another config", "own_code.mine_of_resume.Mine was")
