"""A training that is stopped, killed or crashes goes on as if nothing had been."""

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import DistanceWeightedMiner
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import code_hash
from sfam_bench.core.signals import Interrupted
from sfam_bench.models.build import load, origin_of, save
from sfam_bench.training.checkpoint import Checkpoints, check_can_save, lock_folder, remove_checkpoints
from sfam_bench.training.loop import train
from sfam_bench.training.recipe import Recipe
from sfam_bench.training.validation import Choice
from tests.training.toy import EXAMPLES, LONG, augmented, model, softmax, started

NOISY = replace(EXAMPLES, load=augmented)


class Crash(Exception):
    """Out of the middle of a training."""


def crashing(at: int):
    def log(step: int, numbers: Mapping[str, float]) -> None:
        if step == at:
            raise Crash

    return log


def weights(of: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in of.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


RECIPES = [
    Recipe(epochs=3, batch_size=8, per_class=2, lr=1e-2, checkpoint_steps=1),
    Recipe(epochs=3, batch_size=8, per_class=0, checkpoint_steps=2, schedule="cosine", warmup_epochs=1, ema=0.9),
    Recipe(epochs=3, batch_size=8, per_class=2, checkpoint_steps=1, optimiser="sgd", schedule="step", step_epochs=1),
    Recipe(epochs=3, batch_size=4, per_class=2, checkpoint_steps=3, part="embedder", views=2, schedule="constant"),
    Recipe(epochs=3, batch_size=4, per_class=2, checkpoint_steps=1, optimiser="rmsprop", head_first_epochs=1),
]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.optimiser}-{recipe.schedule}-{recipe.part}")
def test_a_crashed_training_ends_with_the_same_weights_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    def go(run: Path, log: object = None) -> tuple[dict[str, torch.Tensor], list[float]]:
        of, criterion = model(), softmax()
        history = train(of, criterion, None, NOISY, recipe, run=run, log=log)
        return weights(of) | weights(criterion), history["loss"].tolist()

    expected, losses = go(tmp_path / "whole")
    for at in (1, 4, 5):
        run = tmp_path / f"crashed-{at}"
        with pytest.raises(Crash):
            go(run, crashing(at))
        found, again = go(run)
        assert same(found, expected), at
        assert again == losses, at


def test_random_miners_are_continued_too(tmp_path: Path) -> None:
    def go(run: Path, log: object = None) -> dict[str, torch.Tensor]:
        of = model()
        train(of, TripletMarginLoss(), DistanceWeightedMiner(), NOISY, RECIPES[0], run=run, log=log)
        return weights(of)

    expected = go(tmp_path / "whole")
    with pytest.raises(Crash):
        go(tmp_path / "run", crashing(3))
    assert same(go(tmp_path / "run"), expected)


def test_the_best_epoch_survives_a_crash(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def go(run: Path, log: object = None) -> dict[str, torch.Tensor]:
        of = model()

        def measures() -> dict[str, float]:  # a function of the weights alone, as retrieval is
            seen.append(weights(of))
            return {"value": -abs(float(of.trunk[0].weight.detach().sum()) - target)}

        train(of, softmax(), None, NOISY, RECIPES[0], run=run, log=log, choice=Choice(measures, "value"))
        return weights(of)

    target = 0.0
    go(tmp_path / "first")
    assert len(seen) == 3
    target = float(seen[1]["trunk.0.weight"].sum())  # so that the second epoch is the best
    expected = go(tmp_path / "whole")
    assert same(expected, seen[1])
    with pytest.raises(Crash):
        go(tmp_path / "run", crashing(5))
    assert same(go(tmp_path / "run"), expected)


def test_another_training_is_not_continued(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, log=crashing(3), identity={"lr": 1})
    with pytest.raises(UserError, match=r"started with other settings or images \(lr was 1, is 2\)"):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, identity={"lr": 2})


@pytest.mark.parametrize("file", ["model.safetensors", "learning.pt", "state.json"])
@pytest.mark.parametrize("damage", ["short", "gone", "code"])
def test_a_damaged_checkpoint_is_named_and_never_run(file: str, damage: str, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, log=crashing(3))
    path = next(tmp_path.glob("checkpoints/step-*")) / file
    if damage == "short":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "gone":
        path.unlink()
    else:
        torch.save(Bomb(tmp_path / "exploded"), path)
    with pytest.raises(UserError, match=r"cannot continue from .*step-00000002.*: delete this folder"):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """A pickle that touches a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_what_a_dying_process_left_half_written_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, log=crashing(4))
    half = tmp_path / "checkpoints" / "999.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    of, expected = model(), model()
    train(of, softmax(), None, NOISY, RECIPES[0], run=tmp_path)
    train(expected, softmax(), None, NOISY, RECIPES[0])
    assert same(weights(of), weights(expected))
    assert not half.exists()
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv"]


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("sfam_bench.models.checkpoint.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("sfam_bench.training.checkpoint.torch.save", OSError(28, "No space left on device")),
        ("sfam_bench.core.files.json.dumps", OSError(122, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    writer: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.write(1, model(), {}, {})

    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(writer, full)
        with pytest.raises(UserError, match=r"the disk is full or over quota: .*step-00000002 was not written"):
            checkpoints.write(2, model(), {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoints.read(tmp_path / "step-00000001", model(), {})


@pytest.mark.parametrize("name", ["history.csv", "best-1.safetensors"])
def test_a_full_disk_at_the_end_of_an_epoch_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path.replace

    def full(path: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        return place(path, target)

    monkeypatch.setattr(Path, "replace", full)
    choice = Choice(lambda: {"value": 1.0}, "value")
    with pytest.raises(UserError, match=rf"the disk is full or over quota: .*{name} was not written"):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, choice=choice)


def test_the_best_epoch_is_that_of_the_history_though_a_killed_one_was_better(tmp_path: Path) -> None:
    """The second epoch is the best and is killed before its checkpoint; what goes on measures it as worse."""

    def go(run: Path, values: list[float], log: object = None) -> dict[str, torch.Tensor]:
        of, criterion, left = model(), softmax(), iter(values)
        choice = Choice(lambda: {"value": next(left)}, "value")
        train(of, criterion, None, NOISY, RECIPES[0], run=run, choice=choice, log=log)
        return weights(of) | weights(criterion)

    def crash_at_best(step: int, numbers: Mapping[str, float]) -> None:
        if numbers.get("validation_value") == 3.0:
            raise Crash

    with pytest.raises(Crash):
        go(tmp_path / "killed", [1.0, 3.0], crash_at_best)
    assert same(go(tmp_path / "killed", [0.5, 0.2]), go(tmp_path / "whole", [1.0, 0.5, 0.2]))
    kept = sorted(path.name for path in (tmp_path / "killed").glob("best*"))
    assert kept == ["best-1.safetensors", "best_loss-1.safetensors"]
    remove_checkpoints(tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["history.csv"]


def test_what_cannot_be_saved_is_not_trained(tmp_path: Path) -> None:
    class Odd(nn.Identity):
        def get_extra_state(self) -> str:
            return "text"

    of, steps = model(), list[int]()
    of.embedder.tail = Odd()
    with pytest.raises(UserError, match=r"cannot be saved: its entry 'embedder.tail._extra_state' is no tensor"):
        train(of, softmax(), None, NOISY, RECIPES[0], run=tmp_path, log=lambda step, _: steps.append(step))
    assert not list(tmp_path.iterdir())  # nothing was begun that is to be continued
    with pytest.raises(UserError, match="cannot be saved"):
        check_can_save(of, tmp_path / "other")
    assert not steps
    check_can_save(model(), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_other_code_is_refused_or_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Crash):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, log=crashing(3))
    monkeypatch.setattr("sfam_bench.training.checkpoint.running_code", lambda: "other")
    with pytest.raises(UserError, match=r"started with other code of sfam_bench \(\w+, now other\).* resume=anyway"):
        train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path)
    history = train(model(), softmax(), None, NOISY, RECIPES[0], run=tmp_path, any_code=True)
    (first, second) = history.attrs["code"]
    assert first == {"code": code_hash(), "from_step": 0}
    assert second == {"code": "other", "from_step": 2}


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """One flipped bit, or a file that was cut off, or 64 zeroed bytes."""
    found, place = bytearray(content), int(random.integers(len(content)))
    kind = random.integers(3)
    if kind == 0:
        found[place] ^= 1 << int(random.integers(8))
    elif kind == 1:
        del found[place:]
    else:
        found[place : place + 64] = bytes(len(found[place : place + 64]))
    return bytes(found)


@pytest.mark.slow
def test_no_damaged_file_of_a_training_is_read_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints, random = Checkpoints(tmp_path / "run" / "checkpoints", {"seed": 0}), np.random.default_rng(0)
    of, criterion = model(), softmax()
    checkpoints.write(1, of, {"criterion": criterion}, {"progress": {"step": 1}})
    step = checkpoints.newest()
    assert step is not None
    saved = tmp_path / "run" / "model.safetensors"
    save(of, saved, {"chosen": "last epoch"})

    def loaded() -> object:
        load(model(), saved)
        return origin_of(saved)

    readers = {
        **dict.fromkeys(step.iterdir(), lambda: checkpoints.read(step, model(), {"criterion": softmax()})),
        **{saved: loaded, saved.with_suffix(".json"): loaded},
    }
    silent = []
    for path, read in readers.items():
        content, expected = path.read_bytes(), read()
        for number in range(40):
            path.write_bytes(damaged(content, random))
            changed = path.read_bytes() != content
            try:
                silent += [(path.name, number)] if read() != expected or (changed and path.suffix != ".json") else []
            except UserError:
                continue
        path.write_bytes(content)
    assert not silent
    assert not caplog.text


# As a process


def updates(lines: Iterable[str]) -> dict[int, str]:
    return {int(line.split()[0]): line.split()[1] for line in lines if len(line.split()) == 2}


def until(said: TextIO, step: int) -> dict[int, str]:
    """What it says until it has made an update."""
    lines: list[str] = []
    for line in said:
        lines.append(line)
        if int(line.split()[0]) >= step:
            break
    return updates(lines)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, str], dict[str, torch.Tensor]]:
    run = tmp_path_factory.mktemp("whole")
    with started(run) as (process, lines):
        said = updates(lines)
    assert process.exitcode == 0
    return said, load_file(run / "model.safetensors")


@pytest.mark.slow
def test_a_second_training_in_one_folder_is_refused(tmp_path: Path) -> None:
    with started(tmp_path) as (process, lines):
        until(lines, 1)
        with pytest.raises(UserError, match=rf"is being trained by another process \({process.pid} on .*wait until"):
            train(model(), softmax(), None, NOISY, LONG, run=tmp_path)
        process.kill()
    with lock_folder(tmp_path), lock_folder(tmp_path):  # let go of by the system
        pass


@pytest.mark.slow
def test_killed_at_two_random_moments(
    uninterrupted: tuple[dict[int, str], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    said, expected = uninterrupted
    moments = np.random.default_rng().integers(1, len(said) - 1, 2)
    done, folder = 0, Checkpoints(tmp_path / "checkpoints", {})
    for moment in sorted(int(moment) for moment in moments):
        with started(tmp_path) as (process, lines):
            found = until(lines, max(moment, done + 1))
            process.kill()
            found |= updates(line for line in lines if line.endswith("\n"))
        assert min(found) <= done + 1  # nothing is left out
        assert all(said[step] == loss for step, loss in found.items())
        done = max(found)
        newest = folder.newest()
        if newest is None:
            assert done <= LONG.checkpoint_steps
            done = 0
        else:
            of = model()
            of.load_state_dict(load_file(newest / "model.safetensors"))
            kept = int(newest.name.split("-")[1])
            assert done - LONG.checkpoint_steps <= kept <= done + 1
            done = kept
    with started(tmp_path) as (process, lines):
        updates(lines)
    assert process.exitcode == 0
    assert same(load_file(tmp_path / "model.safetensors"), expected)


@pytest.mark.slow
def test_a_signal_writes_a_checkpoint_and_ends(
    uninterrupted: tuple[dict[int, str], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    said, expected = uninterrupted
    with started(tmp_path) as (process, lines):
        found = until(lines, 7)
        os.kill(process.pid, signal.SIGTERM)
        found |= updates(lines)
    assert process.exitcode == 128 + signal.SIGTERM
    newest = Checkpoints(tmp_path / "checkpoints", {}).newest()
    assert newest is not None
    assert newest.name == f"step-{max(found):08d}"  # nothing is lost
    with started(tmp_path) as (_, lines):
        rest = updates(lines)
    assert {**found, **rest} == said
    assert same(load_file(tmp_path / "model.safetensors"), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_is_an_exception_that_says_where(number: signal.Signals, tmp_path: Path) -> None:
    def ask(step: int, numbers: Mapping[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after update 2") as stop:
        train(model(), softmax(), None, NOISY, LONG, run=tmp_path, log=ask)
    assert stop.value.number == number
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoints" / "step-00000002").is_dir()
