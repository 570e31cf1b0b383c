"""The training script: chosen on held-out classes, interrupted, continued, and what it leaves."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sfam_bench.core.files import digest, read_json, write_json
from sfam_bench.training import loop
from tests.scripts import DATA, Run, mistake, ok, says

pytestmark = pytest.mark.slow

TRAIN = [*DATA, "train.epochs=2", "train.per_class=2", "train.checkpoint_steps=1"]


@pytest.fixture(scope="module")
def whole(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    said = ok(run_script("train", *TRAIN, f"run_dir={run}"))
    assert "optimiser: adamw" in said  # the resolved settings come first
    assert said.index("optimiser: adamw") < said.index("trained:")
    return run


def test_what_a_run_leaves(whole: Path) -> None:
    assert {path.name for path in whole.iterdir() if path.suffix != ".log"} == {
        *("model.safetensors", "model.json", "history.csv", "retrieval.parquet", "proxies.safetensors")
    }
    facts = json.loads((whole / "model.json").read_text())
    assert facts["digests"] == {name: digest(whole / name) for name in ("history.csv", "retrieval.parquet")}
    assert [step["from_step"] for step in facts["computed_by"]] == [0]
    assert facts["chosen"] == "last epoch"
    assert (facts["loss"], facts["recipe"], facts["published"]) == ("normalised_softmax", "default", None)
    assert len(facts["split"]["train_classes"]) == 96
    images = pd.read_parquet(whole / "retrieval.parquet")
    assert images.groupby("stage").size().to_dict() == {"frozen": 96, "trained": 96}
    for stage, name in (("frozen", "retrieval_before"), ("trained", "retrieval")):
        of_stage = images[images["stage"] == stage]
        assert facts[name]["map_at_r"] == pytest.approx(of_stage["map_at_r"].mean())
        assert of_stage["image_id"].is_unique
    assert not set(images["label"]) & set(facts["split"]["train_classes"])


def interrupted(after: int, number: int = signal.SIGTERM) -> Any:
    """The training loop, which is sent a signal after so many updates."""
    update = loop._Training._update

    def signalled(self: Any, images: torch.Tensor, targets: torch.Tensor) -> float:
        if self.at.step == after:
            os.kill(os.getpid(), number)
        return update(self, images, targets)

    return signalled


def test_a_stopped_run_is_continued_bit_for_bit(
    run_script: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_update", interrupted(after=3))
        code, _, err = run_script("train", *TRAIN, f"run_dir={run}")
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after update 4; the state is saved: continue with resume=true" in err
    assert not (run / "model.safetensors").exists()

    code, _, err = run_script("train", *TRAIN, f"run_dir={run}")
    assert code == 2
    assert "pass resume=true" in err
    code, _, err = run_script("train", *TRAIN, "train.lr=1.0", f"run_dir={run}", "resume=true")
    assert code == 2
    assert "was started with other settings or images (train.lr was 0.0003, is 1.0): use the same, or another" in err
    with monkeypatch.context() as patched:
        patched.setattr("sfam_bench.training.checkpoint.running_code", lambda: "other")
        code, _, err = run_script("train", *TRAIN, f"run_dir={run}", "resume=true")
        assert code == 2
        assert "was started with other code" in err
        assert "resume=anyway" in err

    ok(run_script("train", *TRAIN, "train.checkpoint_steps=7", f"run_dir={run}", "resume=true"))
    ours, expected = (load_file(folder / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(ours[key], value) for key, value in expected.items())
    images = [pd.read_parquet(folder / "retrieval.parquet") for folder in (run, whole)]
    pd.testing.assert_frame_equal(*images)
    assert "trained already" in ok(run_script("train", *TRAIN, f"run_dir={run}", "resume=true"))
    changed = ["seed=1", "head=linear", "loss=triplet", "train.lr=1.0"]
    code, _, err = run_script("train", *TRAIN, *changed, f"run_dir={run}", "resume=true")
    assert code == 2
    for setting in ("seed was 0, is 1", "train.lr was 0.0003, is 1.0", "loss.criterion._target_ was", "model.head"):
        assert setting in err


def test_an_epoch_is_chosen_on_held_out_training_classes(run_script: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    validation = ["validation=folds", "validation.folds=3", "validation.fold=1"]
    ok(run_script("train", *TRAIN, *validation, "loss=arcface", f"run_dir={run}"))
    facts, history = json.loads((run / "model.json").read_text()), pd.read_csv(run / "history.csv")
    assert facts["chosen"] == "validation"
    assert facts["loss"] == "arcface"
    best = history["validation_map_at_r"].idxmax()
    assert facts["validation"]["epoch"] == history["epoch"][best]
    assert facts["validation"]["validation_map_at_r"] == pytest.approx(history["validation_map_at_r"].max())
    assert history["validation_count"].tolist() == [64, 64]  # a third of 96 classes of two
    assert len(facts["split"]["train_classes"]) == 96  # those held out were seen, too


def test_only_what_lies_behind_the_cut_is_trained(run_script: Run, tmp_path: Path) -> None:
    head = ["train.part=embedder", "head=linear", "head.dims=8"]
    runs = {loss: tmp_path / loss for loss in ("normalised_softmax", "triplet")}
    for loss, run in runs.items():
        ok(run_script("train", *TRAIN, *head, f"loss={loss}", f"run_dir={run}"))
    one, two = (load_file(run / "model.safetensors") for run in runs.values())
    same = {key for key, value in one.items() if torch.equal(value, two[key])}
    assert same == {key for key in one if key.startswith("trunk.")}
    assert set(one) - same == {"embedder.projection.0.weight", "embedder.projection.0.bias"}


def test_weights_that_are_cut_short_are_not_trained_already(run_script: Run, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    given = ("train", *TRAIN, f"run_dir={tmp_path / 'run'}", "resume=true")
    says(mistake(run_script(*given)), "model.safetensors", "restore")


def test_a_network_that_learnt_nothing_is_random_still(run_script: Run, whole: Path, tmp_path: Path) -> None:
    code, _, said = run_script("train", *TRAIN, "train.lr=0", f"run_dir={tmp_path / 'run'}")  # the proxies learn
    assert code == 0
    assert "nothing was learnt in the trunk" in said
    assert read_json(tmp_path / "run" / "model.json", "")["random"] == ["trunk"]
    assert read_json(whole / "model.json", "")["random"] == []
    embedded = [*DATA, f"model.checkpoint={tmp_path / 'run' / 'model.safetensors'}", f"run_dir={tmp_path / 'embedded'}"]
    assert "RANDOM WEIGHTS" in ok(run_script("embed", *embedded))  # which these tests allow


def test_what_a_training_begins_from_is_not_forgotten(run_script: Run, whole: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.safetensors"
    begun.write_bytes((whole / "model.safetensors").read_bytes())
    facts = read_json(whole / "model.json", "")
    seen = facts["split"]["train_classes"]

    def beginning(**changed: Any) -> tuple[tuple[int, str, str], Path]:
        write_json(begun.with_suffix(".json"), {**facts, **changed})
        run = tmp_path / "run" / "-".join(changed) / str(len(list(tmp_path.rglob("*"))))
        allow = "protocol.allow=[test_selected]" if changed.get("chosen") == "test" else "protocol.allow=[]"
        short = [*TRAIN, "train.epochs=1", f"model.checkpoint={begun}", allow, f"run_dir={run}"]
        return run_script("train", *short), run

    tests = sorted(set(pd.read_parquet(whole / "retrieval.parquet")["label"]))
    (code, _, err), _ = beginning(split={**facts["split"], "train_classes": [*seen, tests[0]]})
    assert code == 2
    assert "was trained on 1 of the 48 classes evaluated" in err
    outcome, run = beginning(split={**facts["split"], "train_classes": [12345]})
    ok(outcome)
    found = json.loads((run / "model.json").read_text())
    assert found["split"]["train_classes"] == sorted([*seen, 12345])
    assert found["chosen"] == "last epoch"
    assert found["began_from"]["split"]["train_classes"] == [12345]
    outcome, run = beginning(chosen="test")
    ok(outcome)
    assert json.loads((run / "model.json").read_text())["chosen"] == "test"


def test_numbers_for_tensorboard(run_script: Run, tmp_path: Path) -> None:
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    ok(run_script("train", *TRAIN, "tensorboard=true", f"run_dir={run}"))
    events = board.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "images_per_second"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("lr")) == 2 * (192 // 32)


def test_without_tensorboard_the_package_is_named(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    code, _, err = run_script("train", *TRAIN, "tensorboard=true", f"run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "pip install '.[tensorboard]'" in err
