"""Run folders: whole or not there, refused or continued, and read with a word on what is wrong."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench import pieces, store
from sfam_bench.errors import UserError
from sfam_bench.provenance import config_hash
from sfam_bench.store import RunStore, image_path, read_maps, read_run

CONFIG = {"model": {"name": "lite0"}, "seed": 0}
FACTS = {"dataset": "cub", "shards": 2}


def row(query: str, value: float = 0.5, flag: str = "") -> dict[str, object]:
    where = {"dataset": "cub", "model": "lite0", "target": "similarity", "explainer": "sfam", "metric": "deletion"}
    return {**where, "query_id": query, "reference_id": "r", "value": value, "flag": flag}


def pairs(*queries: str) -> pd.DataFrame:
    fixed = {"reference_id": "r", "negative_id": None, "kind": "nearest_positive", "score": 0.9}
    labels = {"query_label": 1, "reference_label": 1, "query_class": "a", "reference_class": "a"}
    return pd.DataFrame([{"query_id": query, **fixed, **labels} for query in queries])


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    begun = RunStore.create(tmp_path / "run", CONFIG, FACTS)
    begun.write_pairs(pairs("a", "b"))
    begun.write_shard(0, [row("a")])
    return begun


def test_a_finished_run_reads_back(run: RunStore) -> None:
    run.write_shard(1, pd.DataFrame([row("b", np.nan, "zero_range")]))
    run.finish(retrieval={"recall_at_1": np.float32(0.5)})
    found = read_run(run.root)
    assert found.manifest["done"]
    assert found.manifest["retrieval"] == {"recall_at_1": 0.5}
    assert found.manifest["config_hash"] == config_hash(CONFIG)
    assert set(found.manifest["versions"]) >= {"numpy", "torch"}
    assert found.records["query_id"].tolist() == ["a", "b"]
    assert found.records["flag"].tolist() == ["", "zero_range"]
    assert np.isnan(found.records["value"][1])
    assert found.pairs["query_id"].tolist() == ["a", "b"]


def test_records_may_be_dataclasses(run: RunStore) -> None:
    @dataclass(frozen=True)
    class Record:
        dataset: str = "cub"
        model: str = "lite0"
        target: str = "similarity"
        explainer: str = "sfam"
        metric: str = "deletion"
        query_id: str = "c"
        reference_id: str = "r"
        value: float = 1.0
        flag: str = ""

    run.write_shard(1, [Record()])
    assert read_run(run.root, allow_unfinished=True).records["query_id"].tolist() == ["a", "c"]


def test_an_empty_shard_counts_as_done(run: RunStore) -> None:
    run.write_shard(1, [])
    run.finish()
    assert run.has_shard(1)
    assert len(read_run(run.root).records) == 1


def test_an_existing_run_is_refused(run: RunStore) -> None:
    with pytest.raises(UserError, match="exists: pass resume=true to continue it, or another run_dir"):
        RunStore.create(run.root, CONFIG, FACTS)


def test_resume_continues_the_same_config_only(run: RunStore) -> None:
    assert RunStore.create(run.root, {"seed": 0, "model": {"name": "lite0"}}, FACTS, resume=True) == run
    assert run.has_shard(0)
    with pytest.raises(UserError, match="another config"):
        RunStore.create(run.root, {**CONFIG, "seed": 1}, FACTS, resume=True)


def test_the_folder_that_hydra_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "evaluate.log").touch()
    RunStore.create(tmp_path, CONFIG, FACTS)


def test_of_two_jobs_that_begin_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore.create(tmp_path, CONFIG, FACTS)
    monkeypatch.setattr(store, "_holds_results", lambda root: False)  # both looked before either wrote
    with pytest.raises(UserError, match="another job"):
        RunStore.create(tmp_path, CONFIG, FACTS)


def test_a_kill_before_the_swap_leaves_nothing_readable(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_shard(1, [row("b")], {"query_id": np.array(["b"]), "reference_id": np.array(["r"])})
    monkeypatch.undo()
    assert not run.has_shard(1)
    assert not read_maps(run.root)
    assert not list(run.root.rglob("*.tmp"))
    assert read_run(run.root, allow_unfinished=True).records["query_id"].tolist() == ["a"]


def test_maps_without_records_are_no_shard(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces.pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.write_shard(1, [row("b")], {"query_id": np.array(["b"]), "reference_id": np.array(["r"])})
    assert (run.root / "maps" / "00001.npz").exists()
    assert not run.has_shard(1)


def test_an_unfinished_run_says_how_far_it_came(run: RunStore) -> None:
    with pytest.raises(UserError, match="unfinished: 1 of 2 shards"):
        read_run(run.root)
    assert len(read_run(run.root, allow_unfinished=True).records) == 1


def test_a_truncated_shard_is_named_and_written_anew(run: RunStore) -> None:
    run.write_shard(1, [row("b")])
    run.finish()
    broken = run.root / "records" / "00001.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cannot read .*00001\.parquet") as raised:
        read_run(run.root)
    assert "\n" not in str(raised.value)
    assert not run.has_shard(1)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": ')
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json"):
        read_run(tmp_path)


def test_maps_are_read_across_shards_and_by_pair(run: RunStore) -> None:
    for number, query in enumerate("ab"):
        names = {"query_id": np.array([query]), "reference_id": np.array(["r"])}
        run.write_shard(number, [row(query)], {**names, "sfam/query": np.full((1, 2, 3), number, np.float32)})
    both = read_maps(run.root)
    assert both["query_id"].tolist() == ["a", "b"]
    assert both["sfam/query"][:, 0, 0].tolist() == [0, 1]
    assert read_maps(run.root, {("b", "r")})["sfam/query"].shape == (1, 2, 3)
    (run.root / "maps" / "00001.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"00001\.npz"):
        read_maps(run.root)


def test_images_keep_ids_with_slashes(run: RunStore) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    run.write_image("001.Albatross/a b.jpg", pixels)
    assert image_path(run.root, "001.Albatross/a b.jpg").name == "001.Albatross%2Fa%20b.jpg.png"
    assert image_path(run.root, "001.Albatross/a b.jpg").is_file()


def test_the_config_hash_ignores_the_order_of_keys_alone() -> None:
    assert config_hash({"a": 1, "b": (2, 3)}) == config_hash({"b": [2, 3], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
