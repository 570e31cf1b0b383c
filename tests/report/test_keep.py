"""A kept run says what the run said, is light, and names no place of a machine."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Curve
from sfam_bench.report.keep import keep_run
from sfam_bench.report.page.pair_order import sort_pairs
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.reader import read_curves, read_maps, read_records, read_run
from sfam_bench.runs.store import RunStore
from tests.report.conftest import make_run, rewrite_records
from tests.report.test_models import trained


def test_an_evaluation_keeps_its_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    kept = keep_run(run, tmp_path / "kept")
    before, after = read_run(run), read_run(kept)
    pd.testing.assert_frame_equal(read_records(before.root), read_records(after.root))
    pd.testing.assert_frame_equal(before.pairs, after.pairs)
    assert len(read_curves(kept)) == len(read_curves(run))
    assert {path.name for path in kept.iterdir()} == {
        *("manifest.json", "config.yaml", "pairs.parquet", "records.parquet", "curves.parquet"),
    }
    again = keep_run(kept, tmp_path / "again", pictures=1)
    pd.testing.assert_frame_equal(read_records(before.root), read_records(again))


def test_values_are_written_byte_by_byte(tmp_path: Path) -> None:
    """Those of float32 end in zeros, so that a repository of records is a third smaller."""
    kept = keep_run(make_run(tmp_path / "run", "lite0", 0), tmp_path / "kept")
    file = pq.ParquetFile(kept / "records.parquet")
    names = [*file.schema_arrow.names]
    encodings = [file.metadata.row_group(0).column(i).encodings for i in range(len(names))]
    assert ["BYTE_STREAM_SPLIT" in found for found in encodings] == [name == "value" for name in names]


def test_a_copy_may_have_no_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    pair = tuple(pd.read_parquet(run / "pairs.parquet")[["query_id", "reference_id"]].iloc[0])
    curve = Curve("sfam", "deletion_mean_colour", *pair, [0.0, 1.0], [1.0, 0.1])
    rewrite_records(run, 0, pd.read_parquet(run / "records" / "00000.parquet"), [curve])
    assert len(read_curves(keep_run(run, tmp_path / "whole"))) == 1
    light = keep_run(run, tmp_path / "light", curves=False)
    assert read_curves(light).empty
    pd.testing.assert_frame_equal(read_records(run), read_records(light))


def test_pictures_are_of_the_first_pairs_and_of_the_worst(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    whole = read_run(run)
    kept = keep_run(run, tmp_path / "kept", pictures=1)
    maps = read_maps(kept)
    pairs = list(zip(maps["query_id"].tolist(), maps["reference_id"].tolist(), strict=True))
    shown = whole.pairs[:8]  # those that have images
    worst = [pair.row for pair in sort_pairs(shown, whole.matrix, whole.manifest)]
    for kind, own in shown.groupby("kind"):
        first = tuple(own[["query_id", "reference_id"]].iloc[0])
        last = next(pair for pair in worst if pair["kind"] == kind)
        kept_of_kind = set(pairs) & set(own[["query_id", "reference_id"]].itertuples(index=False, name=None))
        assert kept_of_kind == {first, (last["query_id"], last["reference_id"])}
    assert len(list((kept / "images").iterdir())) == len({name for pair in pairs for name in pair})
    before = read_maps(run, set(pairs))
    assert all((before[name] == maps[name]).all() for name in before)


def test_no_path_of_the_machine_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    config = {"dataset": {"root": "../shared/CUB_200_2011", "names": ["~/cache/x", "plain/relative"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {**read_manifest(run), "checkpoint": "/home/ann/results/train/model.safetensors"}
    RunStore(run).write_manifest({**manifest, "digests": {}})
    kept = keep_run(run, tmp_path / "kept")
    assert json.loads((kept / "manifest.json").read_text())["checkpoint"] == "train/model.safetensors"
    assert yaml.safe_load((kept / "config.yaml").read_text()) == {
        "dataset": {"root": "shared/CUB_200_2011", "names": ["cache/x", "plain/relative"]}
    }


def test_a_training_keeps_no_weights(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    (run / "model.safetensors").write_bytes(b"weights")
    kept = keep_run(run, tmp_path / "kept")
    assert {path.name for path in kept.iterdir()} == {"model.json", "history.csv", "retrieval.parquet"}


def test_nothing_is_left_of_what_cannot_be_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "lite0", 0)
    keep_run(run, tmp_path / "kept")
    with pytest.raises(UserError, match="exists: remove it first"):
        keep_run(run, tmp_path / "kept")
    (run / "records" / "00001.parquet").unlink()
    with pytest.raises(UserError, match="unfinished"):
        keep_run(run, tmp_path / "half")
    half = trained(tmp_path / "training")
    (half / "history.csv").unlink()
    with pytest.raises(UserError, match="not a finished training"):
        keep_run(half, tmp_path / "half")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "kept", "training"}
