"""Run folders: whole or not there, refused or continued, and read with a word on what is wrong."""

import errno
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import STALE, atomic, digest, remove_stale_temporaries
from sfam_bench.core.provenance import code_hash, config_hash
from sfam_bench.runs import chunks as pieces
from sfam_bench.runs.chunks import SCHEMA, Chunk, chunk_path
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.reader import (
    Run,
    image_path,
    pairs_with_images,
    read_curves,
    read_image,
    read_maps,
    read_records,
    read_run,
)
from sfam_bench.runs.store import RunStore
from tests.processes import PROCESSES
from tests.runs.made import BATCHES, KEY, PASSES, computed, curves, maps, records, rewrite, write

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
    begun.write_chunk(0, [row("a")])
    return begun


def test_a_finished_run_reads_back(run: RunStore) -> None:
    run.write_chunk(1, pd.DataFrame([row("b", np.nan, "zero_range")]))
    run.finish(retrieval={"recall_at_1": np.float32(0.5)})
    found = read_run(run.root)
    assert found.manifest["done"]
    assert found.manifest["retrieval"] == {"recall_at_1": 0.5}
    assert found.manifest["config_hash"] == config_hash(CONFIG)
    assert set(found.manifest["versions"]) >= {"numpy", "torch"}
    assert read_records(found.root)["query_id"].tolist() == ["a", "b"]
    assert read_records(found.root)["flag"].tolist() == ["", "zero_range"]
    assert np.isnan(read_records(found.root)["value"][1])
    assert found.pairs["query_id"].tolist() == ["a", "b"]


def test_records_may_be_dataclasses(run: RunStore) -> None:
    @dataclass(frozen=True)
    class Record:
        dataset: str = "cub"
        model: str = "lite0"
        target: str = "similarity"
        explainer: str = "sfam"
        metric: str = "deletion"
        query_id: str = "b"
        reference_id: str = "r"
        value: float = 1.0
        flag: str = ""

    run.write_chunk(1, [Record()])
    assert read_records(run.root, allow_unfinished=True)["query_id"].tolist() == ["a", "b"]


def test_values_that_stand_twice_or_are_of_no_pair_are_refused(run: RunStore) -> None:
    run.write_chunk(1, [row("a")])
    with pytest.raises(
        UserError, match="hold 1 values twice, first of cub · lite0 · similarity · sfam · deletion · a · r"
    ):
        read_run(run.root, allow_unfinished=True)
    run.write_chunk(1, [row("z")])
    with pytest.raises(UserError, match="are of z with r, which is not a pair of the run"):
        read_run(run.root, allow_unfinished=True)


FOREIGN = {
    "no column kind": lambda frame: frame.drop(columns="kind"),
    "column query_id does not hold strings": lambda frame: frame.assign(query_id=range(len(frame))),
    "column score does not hold numbers": lambda frame: frame.assign(score="high"),
    "column reference_label does not hold numbers": lambda frame: frame.assign(reference_label=[[1]] * len(frame)),
    "holds 2 pairs twice": lambda frame: pd.concat([frame, frame]),
}


@pytest.mark.parametrize("why", FOREIGN)
def test_foreign_pairs_are_named(run: RunStore, why: str) -> None:
    FOREIGN[why](pairs("a", "b")).to_parquet(run.root / "pairs.parquet")
    with pytest.raises(UserError, match=r"pairs\.parquet is damaged or was edited"):
        read_run(run.root, allow_unfinished=True)
    age(run.root)
    with pytest.raises(UserError, match=why) as raised:
        read_run(run.root, allow_unfinished=True)
    assert "\n" not in str(raised.value)


MANIFESTS = {
    "[]": "holds no JSON object",
    "[" * 100_000: "cannot read",
    '{"metrics": [1]}': "metrics is [1], not a mapping",
    '{"merged": {}}': "merged has no batches",
    '{"shards": "two"}': "shards is 'two'",
    '{"done": 1}': "done is 1",
    '{"blind": [["lafam"]]}': "blind[0] is ['lafam']",
    '{"protocol": {"chosen": "mine", "source": null, "allowed": {}}}': "protocol.chosen is 'mine'",
    '{"cost": {"sfam": {"forwards": "many"}}}': "cost.sfam.forwards is 'many'",
}


@pytest.mark.parametrize("text", MANIFESTS, ids=[text[:20] for text in MANIFESTS])
def test_foreign_manifests_are_named(run: RunStore, text: str) -> None:
    (run.root / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json") as raised:
        read_run(run.root, allow_unfinished=True)
    assert MANIFESTS[text] in str(raised.value)
    assert "\n" not in str(raised.value)


def age(root: Path) -> None:
    """Make a run look as if an older version had written it, without digests."""
    old = {name: value for name, value in read_manifest(root).items() if name != "digests"}
    (root / "manifest.json").write_text(json.dumps(old))


def test_an_empty_shard_counts_as_done(run: RunStore) -> None:
    run.write_chunk(1, [])
    run.finish()
    assert run.has_chunk(1)
    assert len(read_records(run.root)) == 1


def test_an_existing_run_is_refused(run: RunStore) -> None:
    with pytest.raises(UserError, match="exists: pass resume=true to continue it, or another run_dir"):
        RunStore.create(run.root, CONFIG, FACTS)


def test_resume_continues_the_same_config_only(run: RunStore) -> None:
    assert RunStore.create(run.root, {"seed": 0, "model": {"name": "lite0"}}, FACTS, resume=True) == run
    assert run.has_chunk(0)
    with pytest.raises(UserError, match="another config"):
        RunStore.create(run.root, {**CONFIG, "seed": 1}, FACTS, resume=True)


def test_the_folder_that_hydra_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "evaluate.log").touch()
    RunStore.create(tmp_path, CONFIG, FACTS)


def test_of_two_jobs_that_begin_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore.create(tmp_path, CONFIG, FACTS)
    (tmp_path / "manifest.json").unlink()
    monkeypatch.setattr(
        "sfam_bench.runs.continued.holds_results", lambda root: False
    )  # both looked before either wrote
    with pytest.raises(UserError, match="another job"):
        RunStore.create(tmp_path, CONFIG, FACTS)


def test_a_kill_before_the_swap_leaves_nothing_readable(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_chunk(1, [row("b")], {"query_id": np.array(["b"]), "reference_id": np.array(["r"])})
    monkeypatch.undo()
    assert not run.has_chunk(1)
    assert not read_maps(run.root)
    assert not list(run.root.rglob("*.tmp"))
    assert read_records(run.root, allow_unfinished=True)["query_id"].tolist() == ["a"]


def test_maps_without_records_are_no_shard(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces.pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.write_chunk(1, [row("b")], {"query_id": np.array(["b"]), "reference_id": np.array(["r"])})
    assert (run.root / "maps" / "00001.npz").exists()
    assert not run.has_chunk(1)


def test_an_unfinished_run_says_how_far_it_came(run: RunStore) -> None:
    with pytest.raises(UserError, match="unfinished: it has 1 of 2 chunks"):
        read_run(run.root)
    assert len(read_records(run.root, allow_unfinished=True)) == 1


def test_a_run_that_lost_a_shard_is_not_finished_whatever_its_manifest_says(run: RunStore) -> None:
    run.finish()
    with pytest.raises(UserError, match="unfinished: it has 1 of 2 chunks"):
        read_run(run.root)


def test_costs_are_milliseconds_a_pair_over_all_shards(run: RunStore) -> None:
    run.write_cost(0, 3, {"sfam": 0.5, "rise": 2.0}, 3600.0)
    run.write_cost(1, 1, {"sfam": 0.25, "rise": 0.0}, 900.0)
    found = run.cost({"sfam": {"forwards": 0}, "rise": {"forwards": 9}})
    assert found == {"sfam": {"forwards": 0, "milliseconds": 187.5}, "rise": {"forwards": 9, "milliseconds": 500.0}}


def test_core_hours_are_known_only_if_they_are_of_every_chunk(run: RunStore) -> None:
    run.write_cost(0, 3, {}, 3600.0)
    assert run.core_hours() == 1
    run.write_chunk(1, [row("b")])
    assert run.core_hours() is None
    run.write_cost(1, 1, {}, 900.0)
    run.finish()
    assert read_manifest(run.root)["core_hours"] == 1.25


def test_a_truncated_shard_is_named_and_written_anew(run: RunStore) -> None:
    run.write_chunk(1, [row("b")])
    run.finish()
    broken = run.root / "records" / "00001.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=r"00001\.parquet cannot be read .*delete .*00001\.parquet and evaluate with resume=true"
    ) as raised:
        read_run(run.root)
    assert "\n" not in str(raised.value)
    assert not run.has_chunk(1)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": ')
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json"):
        read_run(tmp_path)


def test_maps_are_read_across_shards_and_by_pair(run: RunStore) -> None:
    for number, query in enumerate("ab"):
        names = {"query_id": np.array([query]), "reference_id": np.array(["r"])}
        run.write_chunk(number, [row(query)], {**names, "sfam/query": np.full((1, 2, 3), number, np.float32)})
    both = read_maps(run.root)
    assert both["query_id"].tolist() == ["a", "b"]
    assert both["sfam/query"][:, 0, 0].tolist() == [0, 1]
    assert read_maps(run.root, {("b", "r")})["sfam/query"].shape == (1, 2, 3)
    (run.root / "maps" / "00001.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"00001\.npz"):
        read_maps(run.root)


def test_point_to_point_maps_are_read_where_they_are_asked_for(run: RunStore) -> None:
    names = {"query_id": np.array(["a", "b"]), "reference_id": np.array(["r", "r"])}
    points = np.arange(2 * 2 * 3 * 1 * 4).reshape(2, 2, 3, 1, 4).astype(np.float16)
    run.write_chunk(0, [row("a")], {**names, "sfam/query": np.zeros((2, 2, 3)), "point_to_point": points})
    assert read_maps(run.root).keys() == {*names, "sfam/query"}
    found = read_maps(run.root, {("b", "r")}, points=True)
    assert np.array_equal(found["point_to_point"], points[1:])


def test_images_keep_ids_with_slashes(run: RunStore) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    run.write_image("001.Albatross/a b.jpg", pixels)
    assert image_path(run.root, "001.Albatross/a b.jpg").name == "001.Albatross%2Fa%20b.jpg.png"
    assert image_path(run.root, "001.Albatross/a b.jpg").is_file()


def test_images_of_long_ids_are_found(run: RunStore) -> None:
    ids = ["a" * 260, "a" * 261, "b"]
    for number, image_id in enumerate(ids):
        run.write_image(image_id, np.full((4, 5, 3), number, np.uint8))
    assert [read_image(run.root, {}, image_id).getpixel((0, 0))[0] for image_id in ids] == [0, 1, 2]
    pairs = pd.DataFrame({"query_id": [*ids, "b"], "reference_id": ["b", "b", "c", ids[0]]})
    assert pairs_with_images(Run(run.root, {}, pairs, None)).index.tolist() == [0, 1, 3]


def test_the_config_hash_ignores_the_order_of_keys_alone() -> None:
    assert config_hash({"a": 1, "b": (2, 3)}) == config_hash({"b": [2, 3], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


# Pieces: what a shard says of itself, and what is found out when it is not true


@pytest.fixture
def planned(tmp_path: Path) -> RunStore:
    return computed(tmp_path / "run")[0]


def test_a_shard_is_had_only_with_this_key_this_number_and_all_its_pairs(planned: RunStore) -> None:
    assert planned.has_chunk(0)
    assert not RunStore(planned.root, "f" * 16).has_chunk(0)
    assert not planned.has_chunk(9)
    planned.path(9).write_bytes(planned.path(0).read_bytes())
    assert not planned.has_chunk(9)
    write(planned, 3, skipped=("d",))
    assert not planned.has_chunk(3)
    assert planned.check_chunk(3) == ""  # sound, though not all
    chunk_path(planned.root, "maps", 0).unlink()
    assert not planned.has_chunk(0)
    assert "maps/00000.npz cannot be read" in planned.check_chunk(0)


def test_a_shard_says_what_it_holds(planned: RunStore) -> None:
    file = pq.ParquetFile(planned.path(1))
    said = pieces.read_footer(planned.path(1))
    told = {"key": KEY, "batch": 1, "rows": 10, "skipped": [], "code": code_hash(), "passes": PASSES}
    curves = {"rows": 2, "sha256": digest(chunk_path(planned.root, "curves", 1))}
    kept = {"names": ["query_id", "reference_id", "sfam/query"], "sha256": digest(chunk_path(planned.root, "maps", 1))}
    seal = said.pop("sha256")
    assert said == {**told, "curves": curves, "maps": kept}
    content = planned.path(1).read_bytes()
    assert seal == hashlib.sha256(content.replace(seal.encode(), b"0" * 64)).hexdigest()
    assert file.schema_arrow.equals(SCHEMA)
    assert file.metadata.row_group(0).column(7).compression == "ZSTD"
    assert planned.size(1) == sum(path.stat().st_size for path in planned.root.glob("*/00001.*"))


def test_a_shard_of_an_older_version_is_read_and_not_continued(
    planned: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    table = pq.read_table(planned.path(0)).replace_schema_metadata(None)
    pq.write_table(table, planned.path(0))
    assert not planned.has_chunk(0)
    assert "another plan (key None" in planned.check_chunk(0)
    with pytest.raises(UserError, match="is of batch None"):
        read_run(planned.root, allow_unfinished=True)
    age(planned.root)
    for _ in range(2):
        assert len(read_records(planned.root, allow_unfinished=True)) == 35
        assert len(read_maps(planned.root)["query_id"]) == 7
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # one line


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table[:-1], "has 9 of 10 rows"),
        (lambda table: table.drop_columns("flag"), "has other columns"),
        (lambda table: table.set_column(7, "value", table["value"].take(list(range(9, -1, -1)))), "digest differs"),
        (lambda table: table.replace_schema_metadata({b"sfam_bench": b"[]"}), "cannot be read"),
        (lambda table: table, "digest differs"),  # the same values in a file with another compression
    ],
)
def test_check_shard_names_what_was_changed(change, why: str, planned: RunStore) -> None:
    pq.write_table(change(pq.read_table(planned.path(1))), planned.path(1))
    found = planned.check_chunk(1)
    assert why in found
    assert found.startswith(str(planned.path(1)))
    assert "\n" not in found


def test_a_shard_of_another_mode_or_of_other_code_is_not_continued(planned: RunStore) -> None:
    other = {"mode": "half", "batch": 16}
    assert not replace(planned, passes=other).has_chunk(0)
    assert "has passes mode eager, batch 4, expected mode half" in replace(planned, passes=other).check_chunk(0)
    assert not replace(planned, codes=("f" * 16,)).has_chunk(0)
    assert "made by other code" in replace(planned, codes=("f" * 16,)).check_chunk(0)
    found = Chunk.read(planned.root, 0, KEY)
    assert (found.code, found.passes) == (code_hash(), PASSES)


def test_shards_that_are_absent_or_damaged_are_due(planned: RunStore) -> None:
    assert planned.due(len(BATCHES)) == []
    planned.path(0).write_bytes(b"damaged")
    planned.path(len(BATCHES) - 1).unlink()
    assert planned.due(len(BATCHES)) == [0, len(BATCHES) - 1]
    assert not planned.path(0).exists()


def test_what_is_set_aside_is_kept_and_computed_anew(planned: RunStore) -> None:
    for content in (b"first", b"second"):
        planned.path(1).write_bytes(content)
        planned.set_aside(1)
        assert not planned.has_chunk(1)
    planned.set_aside(1)  # another process was faster
    aside = sorted(planned.path(1).parent.glob("*.bad*"))
    assert [path.read_bytes() for path in aside] == [b"first", b"second"]
    assert len(read_records(planned.root, allow_unfinished=True)) == 25
    write(planned, 1)
    assert planned.check_chunk(1) == ""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, Chunk, dict[str, bytes]]:
    store = computed(tmp_path_factory.mktemp("sound") / "run")[0]
    store.finish(shards=4)
    content = {kind: chunk_path(store.root, kind, 1).read_bytes() for kind in ("records", "curves", "maps")}
    return store, Chunk.read(store.root, 1, KEY), content


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["records", "curves", "maps"]), data=st.data())
def test_damage_is_found(kind: str, data: st.DataObject, sound) -> None:
    store, whole, content = sound
    good, path = content[kind], chunk_path(store.root, kind, 1)
    at = data.draw(st.integers(0, len(good) - 1))
    flip, cut = data.draw(st.integers(1, 255)), data.draw(st.booleans())
    path.write_bytes(good[:at] if cut else good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
    try:
        with pytest.raises(ValueError, match=path.name):
            Chunk.read(store.root, 1, KEY)
        with pytest.raises(UserError, match=path.name):
            {"records": read_run, "curves": read_curves, "maps": read_maps}[kind](store.root)
    finally:
        path.write_bytes(good)
    assert Chunk.read(store.root, 1, KEY).records.equals(whole.records)


def test_a_crash_at_any_byte_leaves_nothing_to_read(planned: RunStore) -> None:
    whole = {kind: chunk_path(planned.root, kind, 1).read_bytes() for kind in ("records", "curves", "maps")}
    for kind in whole:
        chunk_path(planned.root, kind, 1).unlink()
    length = len(whole["records"])
    for cut in range(0, length, 397):
        for kind, content in whole.items():
            path = chunk_path(planned.root, kind, 1)
            path.with_name(f".{path.name}.host.1.ab.tmp").write_bytes(content[: min(cut, len(content))])
        assert not planned.has_chunk(1)
        assert len(read_records(planned.root, allow_unfinished=True)) == 25
        assert len(read_maps(planned.root)["query_id"]) == 5
    for cut in {*range(0, length, 23), *range(length - 20, length)}:  # renamed, and lost by the disk
        planned.path(1).write_bytes(whole["records"][:cut])
        assert not planned.has_chunk(1)


def test_writers_of_one_shard_at_once_never_show_a_half(planned: RunStore) -> None:
    writers = [PROCESSES.Process(target=rewrite, args=(planned.root, 1, 10)) for _ in range(2)]
    for writer in writers:
        writer.start()
    looks = []
    while any(writer.is_alive() for writer in writers):
        looks.append((planned.has_chunk(1), planned.check_chunk(1)))
    for writer in writers:
        writer.join()
    assert set(looks) == {(True, "")}
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not list(planned.root.rglob(".*.tmp"))


# Files


def test_each_writer_has_a_temporary_of_its_own_and_the_last_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with atomic(path) as first:
        first.write_text("first")
        with atomic(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert first != second
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_names_as_long_as_can_be_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    with atomic(path) as temporary:
        temporary.write_text("here")
    assert path.read_text() == "here"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "x", list[tuple[str, bool]]()
    sync = os.fsync

    def noted(handle: int) -> None:
        seen.append((Path(f"/proc/self/fd/{handle}").readlink().name, path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic(path) as temporary:
        temporary.write_text("here")
    assert seen == [(temporary.name, False), (tmp_path.name, True)]


def test_only_temporaries_without_a_writer_are_tidied(tmp_path: Path) -> None:
    with atomic(tmp_path / "x") as living:
        living.touch()
        stale, young = (tmp_path / f".y.elsewhere.{number}.ab.tmp" for number in (1, 2))
        for path in (stale, young):
            path.touch()
        before = time.time() - STALE - 60
        os.utime(stale, (before, before))
        assert remove_stale_temporaries(tmp_path) == [stale]
    assert remove_stale_temporaries(tmp_path) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real disk of one megabyte."""
    (tmp_path / "disk").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "disk"], capture_output=True)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", tmp_path / "disk"], check=True)


@pytest.mark.parametrize("kind", ["records", "curves", "maps"])
def test_a_full_disk_is_one_clear_error_and_what_was_done_stays(kind: str, small: Path) -> None:
    run, _ = computed(small / "run")
    noise, many = np.random.default_rng(0), 4000
    queries = [str(number) for number in range(many)]
    given_records, given_curves, given_maps = records(["a"], 9), curves(["a"], 9), maps(["a"], 9)
    if kind == "records":
        rows = pd.concat([pd.DataFrame(records(queries, 9))] * 8)
        given_records = rows.assign(value=noise.random(len(rows)))
    elif kind == "curves":
        given_curves = curves(queries, 9)
        for curve in given_curves:
            curve.score = noise.random(100).tolist()
    else:
        given_maps = {**maps(queries, 9), "sfam/query": noise.random((many, 9, 9), np.float32)}
    with pytest.raises(UserError, match=rf"the disk is full or over quota: .*{kind}/00009.*make room") as raised:
        run.write_chunk(9, given_records, given_maps, given_curves)
    assert "\n" not in str(raised.value)
    assert not run.has_chunk(9)
    assert [run.check_chunk(number) for number in range(4)] == [""] * 4
    assert not list(small.rglob(".*.tmp"))
    run.write_chunk(9, records(["a"], 9))
    assert run.has_chunk(9)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_writer_that_finds_no_room_leaves_no_half(
    number: int, planned: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"PAR1 half")
        raise OSError(number, os.strerror(number))

    before = planned.path(1).read_bytes()
    monkeypatch.setattr(pieces.pq, "write_table", half)
    with pytest.raises(UserError, match="the disk is full"):
        write(planned, 1)
    assert planned.path(1).read_bytes() == before
    assert not list(planned.root.rglob(".*.tmp"))
