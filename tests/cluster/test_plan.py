"""Shards: every batch once, balanced, named by content; plans that cannot be read are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfam_bench.cluster.plan import MOST, Plan, cut, shards_for
from sfam_bench.errors import UserError


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
        shards=cut(batches, shards, key),
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 80))
def test_every_batch_is_in_one_shard(batches: list[int], shards: int) -> None:
    found = cut(batches, shards, "k")
    assert [number for shard in found for number in shard.batches] == list(range(len(batches)))
    assert len(found) == min(shards, len(batches))
    assert len({shard.id for shard in found}) == len(found)


@given(st.integers(1, 300), st.integers(1, 80))
def test_equal_batches_are_shared_out_evenly(batches: int, shards: int) -> None:
    lengths = [len(shard.batches) for shard in cut([4] * batches, shards, "k")]
    assert max(lengths) - min(lengths) <= 1


def test_an_id_hangs_on_content_and_range() -> None:
    assert [shard.id for shard in cut([1] * 6, 3, "k")] == [shard.id for shard in cut([5] * 6, 3, "k")]
    assert not {shard.id for shard in cut([1] * 6, 3, "k")} & {shard.id for shard in cut([1] * 6, 3, "other")}
    assert not {shard.id for shard in cut([1] * 6, 3, "k")} & {shard.id for shard in cut([1] * 6, 2, "k")}


def test_shards_are_of_about_ten_minutes_by_hand() -> None:
    assert shards_for(60502, 2.0, 10, workers=1) == 50  # 30,251 s
    assert shards_for(60, 2.0, 10, workers=1) == 1
    assert shards_for(60, 2.0, 10, workers=4) == 4
    assert shards_for(10**9, 1.0, 10, workers=1) == MOST


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = plan([3, 3, 1], 2)
    made.write(tmp_path)
    assert Plan.read(tmp_path) == made
    assert made.pairs == 7
    assert [made.pairs_of(shard) for shard in made.shards] == [3, 4]


def test_what_is_no_plan_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no plan \(plan.json\): make one with submit.py plan"):
        Plan.read(tmp_path)
    plan([1], 1).write(tmp_path)
    whole = (tmp_path / "plan.json").read_text()
    for text in (whole[:-20], "[]", "{}", whole.replace('"batches"', '"batchs"')):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(UserError, match=r"cannot read .*plan.json"):
            Plan.read(tmp_path)


def test_a_plan_is_frozen() -> None:
    with pytest.raises(AttributeError):
        plan([1], 1).key = "other"  # type: ignore[misc]
    assert replace(plan([1], 1), key="other").key == "other"
