"""A kept run says what the run said, is light, and names no place of a machine."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sfam_bench.errors import UserError
from sfam_bench.keep import keep
from sfam_bench.store import read_curves, read_run
from tests.report.conftest import make_run
from tests.report.test_models import trained


def test_an_evaluation_keeps_its_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    kept = keep(run, tmp_path / "kept")
    before, after = read_run(run), read_run(kept)
    pd.testing.assert_frame_equal(before.records, after.records)
    pd.testing.assert_frame_equal(before.pairs, after.pairs)
    assert len(read_curves(kept)) == len(read_curves(run))
    assert {path.name for path in kept.iterdir()} == {
        *("manifest.json", "config.yaml", "pairs.parquet", "records.parquet", "curves.parquet"),
    }
    again = keep(kept, tmp_path / "again", pictures=True)
    pd.testing.assert_frame_equal(before.records, read_run(again).records)


def test_pictures_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    kept = keep(run, tmp_path / "kept", pictures=True)
    for folder in ("images", "maps"):
        assert sorted(path.name for path in (kept / folder).iterdir()) == sorted(
            path.name for path in (run / folder).iterdir()
        )


def test_no_path_of_the_machine_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["checkpoint"] = "/home/ann/results/train/model.safetensors"
    (run / "manifest.json").write_text(json.dumps(manifest))
    config = {"dataset": {"root": "../shared/CUB_200_2011", "names": ["~/cache/x", "plain/relative"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    kept = keep(run, tmp_path / "kept")
    assert json.loads((kept / "manifest.json").read_text())["checkpoint"] == "train/model.safetensors"
    assert yaml.safe_load((kept / "config.yaml").read_text()) == {
        "dataset": {"root": "shared/CUB_200_2011", "names": ["cache/x", "plain/relative"]}
    }


def test_a_training_keeps_no_weights(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    (run / "model.safetensors").write_bytes(b"weights")
    kept = keep(run, tmp_path / "kept")
    assert {path.name for path in kept.iterdir()} == {"model.json", "history.csv", "retrieval.parquet"}


def test_nothing_is_left_of_what_cannot_be_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    keep(run, tmp_path / "kept")
    with pytest.raises(UserError, match="exists: remove it first"):
        keep(run, tmp_path / "kept")
    (run / "records" / "00001.parquet").unlink()
    with pytest.raises(UserError, match="unfinished"):
        keep(run, tmp_path / "half")
    half = trained(tmp_path / "training")
    (half / "history.csv").unlink()
    with pytest.raises(UserError, match="no finished training"):
        keep(half, tmp_path / "half")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "kept", "training"}
