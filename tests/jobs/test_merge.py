"""Merging pieces: everything once or nothing, whatever is missing, wrong, or killed."""

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest, host
from sfam_bench.datasets.batches import cut_batches
from sfam_bench.jobs import merge as merging
from sfam_bench.jobs.merge import merge
from sfam_bench.jobs.plan import Plan
from sfam_bench.report.tables.protocols import describe_protocol
from sfam_bench.runs.chunks import SCHEMA
from sfam_bench.runs.continued import PLAN
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.reader import read_curves, read_records, read_run
from sfam_bench.runs.store import RunStore
from sfam_bench.statistics import summarise
from tests.processes import PROCESSES
from tests.runs.made import BATCHES, PAIRS, computed, curves, die, maps, records, write

Made = tuple[RunStore, Plan]
LENGTHS = [10, 10, 5, 10]  # records of each batch


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return computed(tmp_path / "run")


def test_batches_are_cut_as_workers_cut_them(made: Made) -> None:
    root, plan = made[0].root, made[1]
    assert [[query for query, _ in batch] for batch in merging.expected_pairs(root, plan)] == BATCHES
    assert [frame["query_id"].tolist() for frame in cut_batches(pd.read_parquet(root / "pairs.parquet"), 2)] == BATCHES


def test_a_merged_run_holds_what_its_pieces_held(made: Made) -> None:
    store, plan = made
    assert read_run(store.root, allow_unfinished=True).unfinished == "4"
    before = read_records(store.root, allow_unfinished=True)
    walked = read_curves(store.root)
    found = merge(store.root, plan, facts={"retrieval": {"recall_at_1": 0.5}})
    assert (found.rows, found.batches, found.complete, found.line) == (35, 4, True, "")
    shutil.rmtree(store.root / "records")
    shutil.rmtree(store.root / "curves")  # so that only the merged files can be read
    after, records_after = read_run(store.root), read_records(store.root)
    pd.testing.assert_frame_equal(records_after, before, check_exact=True)
    pd.testing.assert_frame_equal(read_curves(store.root), walked, check_exact=True)
    assert after.unfinished == ""
    assert records_after["value"].tolist()[:4] == [0, 0, 1 / 16, 1 / 16]
    assert records_after["value"].tolist()[-1] == 3 + 4 / 16
    manifest = read_manifest(store.root)
    assert manifest["done"]
    assert manifest["shards"] == 4
    assert manifest["merged"] == {"batches": 4, "records": 35, "curves": 7}
    assert manifest["skipped"] == ["wanting"]  # one of a random share is no evidence by its absence
    assert manifest["retrieval"] == {"recall_at_1": 0.5}


def test_a_run_without_curves_is_merged(made: Made) -> None:
    store, plan = made
    for number, queries in enumerate(BATCHES):
        store.write_chunk(number, records(queries, number), maps(queries, number), [])  # type: ignore[arg-type]
    assert merge(store.root, plan).rows == 35
    assert read_curves(store.root).empty


def test_row_groups_and_what_is_held_are_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    store, plan = made
    held: list[int] = []
    add = merging._Stream.add
    monkeypatch.setattr(merging, "ROWS", 12)
    monkeypatch.setattr(merging._Stream, "add", lambda self, table: (add(self, table), held.append(len(self.held)))[0])
    merge(store.root, plan)
    file = pq.ParquetFile(store.root / "records.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [20, 15]
    assert max(held) <= 4
    assert file.schema_arrow.equals(SCHEMA)  # text is in dictionaries
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_merging_again_gives_the_same_bytes(made: Made) -> None:
    store, plan = made
    merge(store.root, plan)
    first = [(store.root / name).read_bytes() for name in ("records.parquet", "curves.parquet", "manifest.json")]
    merge(store.root, plan)
    assert first == [
        (store.root / name).read_bytes() for name in ("records.parquet", "curves.parquet", "manifest.json")
    ]


def test_gaps_and_skipped_pairs_are_refused_in_one_line(made: Made) -> None:
    store, plan = made
    store.path(1).unlink()
    store.path(2).unlink()
    write(store, 3, skipped=("d",))
    with pytest.raises(UserError) as raised:
        merge(store.root, plan)
    assert str(raised.value) == (
        f"{store.root} cannot be merged: missing batches: 2 (1, 2); pairs that could not be explained: 1 (d with r "
        f"(no such image)); sfam-bench submit run run_dir={store.root} computes what is missing, "
        "or merge the valid chunks with partial=true"
    )
    assert not (store.root / "records.parquet").exists()
    assert not list(store.root.glob(".*"))
    assert not read_manifest(store.root)["done"]


def test_a_run_without_a_chunk_is_not_read(made: Made) -> None:
    store, _ = made
    for number in range(4):
        store.path(number).unlink(missing_ok=True)
    with pytest.raises(UserError, match="has no finished chunk yet"):
        read_run(store.root, allow_unfinished=True)


def test_a_partial_merge_says_what_it_lacks_and_is_read_only_when_asked(made: Made) -> None:
    store, plan = made
    store.path(1).unlink()
    write(store, 3, skipped=("d",))
    broken = store.path(2)
    broken.write_bytes(broken.read_bytes()[:-9])
    found = merge(store.root, plan, partial=True)
    assert (found.rows, found.batches, found.missing) == (10 + 5, 2, [1])
    assert found.skipped == [(3, "d", "r", "no such image")]
    assert list(found.wrong) == [2]
    with pytest.raises(UserError, match="unfinished: it has 2 of 4 chunks; continue it with sfam-bench submit run and"):
        read_run(store.root)
    (store.root / PLAN).unlink()
    with pytest.raises(UserError, match="2 of 4 chunks; continue it with resume=true"):
        read_run(store.root)
    run = read_run(store.root, allow_unfinished=True)
    assert run.unfinished == "2 of 4"
    assert read_records(run.root, allow_unfinished=True)["query_id"].unique().tolist() == ["a", "b"]
    said = describe_protocol(run, summarise(run.matrix, {}), np.array([]))
    assert ("Unfinished", "2 of 4 batches") in said
    lost = read_manifest(store.root)["lost"]
    assert (lost["missing"], lost["skipped"]) == ([1], [[3, "d", "r", "no such image"]])
    for number in (1, 2, 3):
        write(store, number)
    assert merge(store.root, plan).complete
    assert "lost" not in read_manifest(store.root)
    assert len(read_records(store.root)) == sum(LENGTHS)


WRONG: dict[str, Callable[[RunStore], object]] = {
    "holds 2 rows twice": lambda store: store.write_chunk(1, records(["c", "e"], 1) + records(["c", "e"], 1)[:2]),
    "lacks e with r)": lambda store: store.write_chunk(1, records(["c"], 1)),
    "lacks c with r and 1 more)": lambda store: store.write_chunk(1, []),
    "has records of a with r, which": lambda store: store.write_chunk(1, records(["c", "e", "a"], 1)),
    "skips z with r, which": lambda store: store.write_chunk(1, records(["c", "e"], 1), skipped=[("z", "r", "?")]),
    "curves/00001.parquet has records of a with r, which": lambda store: store.write_chunk(
        1, records(["c", "e"], 1), curves=curves(["a", "c", "e"], 1)
    ),
    "in another order": lambda store: store.write_chunk(1, records(["c", "e"], 1), maps(["e", "c"], 1)),
    "another plan": lambda store: write(RunStore(store.root, "f" * 16), 1),
    "has passes mode half": lambda store: write(replace(store, passes={"mode": "half", "batch": 4}), 1),
    "is of batch 0": lambda store: shutil.copy(store.path(0), store.path(1)),
    "curves/00001.parquet cannot be read": lambda store: (store.root / "curves" / "00001.parquet").unlink(),
    "maps/00001.npz cannot be read": lambda store: (store.root / "maps" / "00001.npz").unlink(),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_is_wrong_is_refused_and_never_merged(why: str, made: Made) -> None:
    store, plan = made
    WRONG[why](store)
    with pytest.raises(UserError, match="unsound batches: 1") as raised:
        merge(store.root, plan)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(merge(store.root, plan, partial=True).wrong) == [1]
    kept = read_records(store.root, allow_unfinished=True)
    assert len(kept) == sum(LENGTHS) - LENGTHS[1]
    assert not {"c", "e"} & set(kept["query_id"])


def test_pairs_other_than_planned_are_refused(made: Made) -> None:
    store, plan = made
    pd.read_parquet(store.root / "pairs.parquet")[:-1].to_parquet(store.root / "pairs.parquet")
    with pytest.raises(UserError, match=r"pairs.parquet is not the file of the plan"):
        merge(store.root, plan)


def test_pieces_of_other_code_are_refused(made: Made) -> None:
    store, plan = made
    with pytest.raises(UserError, match=r"unsound batches: 4 .*made by other code"):
        merge(store.root, replace(plan, code="another"))


def test_a_manifest_of_another_run_is_refused(made: Made) -> None:
    store, plan = made
    store.write_manifest({**read_manifest(store.root), "config_hash": "0" * 16})
    with pytest.raises(UserError, match=r"manifest.json is not that of the plan"):
        merge(store.root, plan)


def test_pairs_that_are_there_twice_are_one_line(made: Made) -> None:
    store, plan = made
    pairs = pd.read_parquet(store.root / "pairs.parquet")
    pd.concat([pairs, pairs[:2]]).to_parquet(store.root / "pairs.parquet")
    store.write_manifest({**read_manifest(store.root), "digests": {}})
    twice = replace(plan, frozen={"pairs.parquet": digest(store.root / "pairs.parquet")})
    with pytest.raises(UserError, match=r"holds 2 pairs twice.*plan again .*pairs.kinds once"):
        merge(store.root, twice)


def test_a_pair_may_be_of_two_kinds(made: Made) -> None:
    merge(made[0].root, made[1])
    of_a = read_records(made[0].root).query("query_id == 'a' and metric == 's_full'")
    assert of_a["value"].tolist() == [4 / 16, 3 + 4 / 16]
    assert [query for query, _ in PAIRS].count("a") == 2


def test_temporaries_of_the_killed_are_tidied_and_those_of_the_living_are_not(made: Made) -> None:
    store, plan = made
    dead = store.root / "records" / f".00001.parquet.{host()}.999999999.abcd.tmp"
    living = store.root / "maps" / ".00001.npz.elsewhere.1.abcd.tmp"
    for path in (dead, living):
        path.write_bytes(b"half")
    merge(store.root, plan)
    assert not dead.exists()
    assert living.exists()
    assert len(read_records(store.root)) == sum(LENGTHS)


@pytest.mark.slow
def test_a_merge_killed_at_any_step_is_done_again(made: Made, tmp_path: Path) -> None:
    store, plan = made
    store.path(1).rename(tmp_path / "later")
    merge(store.root, plan, partial=True)  # so that each kill falls between two merges
    (tmp_path / "later").rename(store.path(1))
    whole = sorted(np.repeat(np.arange(4), LENGTHS))
    died, step = 0, 0
    while True:
        root = Path(shutil.copytree(store.root, tmp_path / f"{step}"))
        process = PROCESSES.Process(target=die, args=(root, step))
        process.start()
        process.join()
        values = read_records(root, allow_unfinished=True)["value"].astype(int).tolist()
        assert values in (whole, [number for number in whole if number != 1])
        if not process.exitcode:
            break
        assert process.exitcode == -signal.SIGKILL
        died += 1
        merge(root, plan)
        assert read_records(root)["value"].astype(int).tolist() == whole
        assert len(read_curves(root)) == len(PAIRS)
        assert not list(root.rglob(".*.tmp"))
        step += 1
    assert died > 15
    assert json.loads((root / "manifest.json").read_text())["done"]


def test_a_merge_on_a_full_disk_is_one_error_and_done_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        store, plan = computed(disk / "run")
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        with pytest.raises(UserError, match="the disk is full"):
            merge(store.root, plan)
        assert not list(disk.rglob(".*.tmp"))
        assert len(read_records(store.root, allow_unfinished=True)) == sum(LENGTHS)
        filler.unlink()
        assert merge(store.root, plan).complete
        assert len(read_records(store.root)) == sum(LENGTHS)
    finally:
        subprocess.run(["umount", disk], check=True)
