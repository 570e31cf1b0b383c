"""Shards: every batch once, balanced, named by content; plans that cannot be read are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest, write_json
from sfam_bench.core.provenance import running_code
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.plan import FILE, MOST, PAIRS, JobList, Plan, count_shards, cut_shards, read_plan
from tests.jobs.damage import damaged


def plan(batches: list[int], shards: int, key: str = "k") -> Plan:
    return Plan(
        key=key,
        code="c",
        folder="/",
        config={},
        passes={},
        left_out={},
        batches=batches,
        rate=2.0,
        size=10.0,
        shards=cut_shards(batches, shards, key),
        frozen={PAIRS: "0"},
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 80))
def test_every_batch_is_in_one_shard(batches: list[int], shards: int) -> None:
    found = cut_shards(batches, shards, "k")
    assert [number for shard in found for number in shard.batches] == list(range(len(batches)))
    assert len(found) == min(shards, len(batches))
    assert len({shard.id for shard in found}) == len(found)


@given(st.integers(1, 300), st.integers(1, 80))
def test_equal_batches_are_shared_out_evenly(batches: int, shards: int) -> None:
    lengths = [len(shard.batches) for shard in cut_shards([4] * batches, shards, "k")]
    assert max(lengths) - min(lengths) <= 1


def test_an_id_hangs_on_content_and_range() -> None:
    assert [shard.id for shard in cut_shards([1] * 6, 3, "k")] == [shard.id for shard in cut_shards([5] * 6, 3, "k")]
    assert not {shard.id for shard in cut_shards([1] * 6, 3, "k")} & {
        shard.id for shard in cut_shards([1] * 6, 3, "other")
    }
    assert not {shard.id for shard in cut_shards([1] * 6, 3, "k")} & {shard.id for shard in cut_shards([1] * 6, 2, "k")}


def test_shards_are_of_about_ten_minutes_by_hand() -> None:
    assert count_shards(60502, 2.0, 10, workers=1) == 50  # 30,251 s
    assert count_shards(60, 2.0, 10, workers=1) == 1
    assert count_shards(60, 2.0, 10, workers=4) == 4
    assert count_shards(10**9, 1.0, 10, workers=1) == MOST


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = plan([3, 3, 1], 2)
    made.write(tmp_path)
    assert Plan.read(tmp_path) == made
    assert made.pairs == 7
    assert [made.pairs_of(shard) for shard in made.shards] == [3, 4]


def test_what_is_no_plan_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no plan \(plan.json\): make one with sfam-bench submit plan"):
        Plan.read(tmp_path)
    for text in ("", "[]", "{}", '{"shards": [[]]}', "[" * 9999):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match=r"plan.json.*: plan again") as raised:
            Plan.read(tmp_path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["flipped", "cut", "zeroed"])
def test_a_damaged_plan_is_refused(tmp_path: Path, kind: str) -> None:
    plan([3, 3, 1], 2).write(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for copy in damaged(whole, kind, 40):
        (tmp_path / FILE).write_bytes(copy)
        with pytest.raises(UserError, match=r"plan.json.*: plan again into another run_dir"):
            Plan.read(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"batches": [3, 0, 1]}, {"batches": [3, "x"]}, {"batches": []}, {"rate": 0.0}, {"rate": float("nan")}),
        *({"config": None}, {"folder": 3}, {"shards": []}, {"shards": [{"id": "a", "first": 0, "last": 3}]}),
        *({"frozen": {}}, {"frozen": {PAIRS: "0", "../other": "0"}}, {"more": 1}, {"batches": [3, 3]}),
    ],
)
def test_a_plan_of_other_fields_than_declared_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    made = plan([3, 3, 1], 2)
    made.write(tmp_path)
    assert Plan.read(tmp_path) == made
    write_json(tmp_path / FILE, {**json.loads((tmp_path / FILE).read_text()), **wrong})
    with pytest.raises(UserError, match=r"plan.json is no plan of this version .*: plan again"):
        Plan.read(tmp_path)


def test_frozen_files_are_proved(tmp_path: Path) -> None:
    (tmp_path / PAIRS).write_bytes(b"pairs")
    made = replace(plan([1], 1), code=running_code(), frozen={PAIRS: digest(tmp_path / PAIRS)})
    made.check(tmp_path)
    (tmp_path / PAIRS).write_bytes(b"pbirs")
    with pytest.raises(UserError, match=r"pairs.parquet is not the file of the plan .*: restore it, or plan again"):
        made.check(tmp_path)
    (tmp_path / PAIRS).unlink()
    with pytest.raises(UserError, match=r"cannot read .*pairs.parquet, which the plan needs .*: restore it"):
        made.check(tmp_path)


def test_a_plan_is_frozen() -> None:
    with pytest.raises(AttributeError):
        plan([1], 1).key = "other"  # type: ignore[misc]
    assert replace(plan([1], 1), key="other").key == "other"


def cells() -> list[Job]:
    return [
        Job("train-a"),
        Job("evaluate-a", ["train-a"], ["evaluate-a/manifest.json"], ["evaluate"], axes={"seed": 1}),
    ]


def test_a_list_of_jobs_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = JobList("sweep", "/", cells(), facts={"name": "mine"})
    made.write(tmp_path)
    assert read_plan(tmp_path) == made
    with pytest.raises(UserError, match="is the folder of a sweep, not of a sharded evaluation"):
        Plan.read(tmp_path)


def test_one_process_does_a_job_or_a_chain_of_jobs() -> None:
    single, chained = (JobList("study", "/", cells(), chained=chained) for chained in (False, True))
    assert [[job.id for job in made.chain("train-a")] for made in (single, chained)] == [
        ["train-a"],
        ["train-a", "evaluate-a"],
    ]
    with pytest.raises(UserError, match="no job nobody"):
        single.chain("nobody")


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": []},
        {"jobs": [{"id": "../a"}]},
        {"jobs": [{"id": ".hidden"}]},
        {"jobs": [{"id": "a"}, {"id": "a"}]},
        {"jobs": [{"id": "a", "after": ["b"]}, {"id": "b"}]},
        {"jobs": [{"id": "a", "after": ["a"]}]},
        {"jobs": [{"id": "a", "command": "evaluate"}]},
        {"jobs": [{"id": "a", "shell": "ls"}]},
        {"kind": "evaluation"},
        {"kind": "party"},
    ],
)
def test_a_list_of_other_jobs_than_declared_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    JobList("sweep", "/", cells()).write(tmp_path)
    write_json(tmp_path / FILE, {**json.loads((tmp_path / FILE).read_text()), **wrong})
    with pytest.raises(UserError, match=r"plan.json is no plan of this version .*: plan again"):
        read_plan(tmp_path)
