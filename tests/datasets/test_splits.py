import logging

import pandas as pd
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.splits import assign_splits


def rows(labels: list[int], **columns: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"label": labels, **columns}, index=[f"i{i}" for i in range(len(labels))])


def test_official_classes() -> None:
    split, name = assign_splits(rows([1, 2, 2], train_class=[True, False, False]), "zero_shot", "Set")
    assert list(split) == ["train", "test", "test"]
    assert list(split.index) == ["i0", "i1", "i2"]
    assert name == "zero-shot, official"


def test_one_empty_side_falls_back_to_halves_of_the_sorted_ids(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split, name = assign_splits(rows([7, 3, 9, 3, 5], train_class=[True] * 5), "zero_shot", "Set at here")
    assert list(split) == ["test", "train", "test", "train", "train"]
    assert name == "zero-shot, halves of the 4 classes present"
    assert "Set at here" in caplog.text


def test_odd_number_of_classes_gives_test_the_larger_half() -> None:
    split, _ = assign_splits(rows([1, 2, 3], train_class=[False] * 3), "zero_shot", "Set")
    assert list(split) == ["train", "test", "test"]


def test_one_class_cannot_be_split() -> None:
    with pytest.raises(UserError, match="1 class here"):
        assign_splits(rows([4, 4]), "zero_shot", "Set")


def test_closed_set_is_named() -> None:
    split, name = assign_splits(rows([1, 1], train_image=[True, False]), "closed_set", "Set")
    assert list(split) == ["train", "test"]
    assert name == "closed-set, official"


@pytest.mark.parametrize("columns", [{}, {"train_image": [True, True]}])
def test_closed_set_needs_both_sides(columns: dict[str, list[bool]]) -> None:
    with pytest.raises(UserError, match=r"no image-level split here: set dataset.split=zero_shot"):
        assign_splits(rows([1, 2], **columns), "closed_set", "Set")


def test_unknown_split() -> None:
    with pytest.raises(UserError, match="expected zero_shot, closed_set, few_shot, none"):
        assign_splits(rows([1, 2]), "random", "Set")


def test_few_shot_is_the_split_of_chen_et_al() -> None:
    index = list(range(200))
    split, name = assign_splits(rows([i + 1 for i in index], class_index=index), "few_shot", "CUB")
    assert [list(split).count(side) for side in ("train", "validation", "test")] == [100, 50, 50]
    assert [split.iloc[i] for i in (0, 1, 2, 3, 197, 199)] == [
        "train",
        "validation",
        "train",
        "test",
        "validation",
        "test",
    ]
    assert name == "few-shot, 100/50/50 classes by official index"


def test_few_shot_of_any_data_set_counts_the_sorted_classes() -> None:
    split, name = assign_splits(rows([70, 30, 90, 30, 50]), "few_shot", "Set")
    assert list(split) == ["train", "train", "test", "train", "validation"]
    assert name == "few-shot, 2/1/1 classes by index"


def test_few_shot_needs_four_classes() -> None:
    with pytest.raises(UserError, match="3 classes here, none for test: few_shot needs four"):
        assign_splits(rows([1, 2, 3]), "few_shot", "Set")


def test_without_a_split_all_images_are_test_images() -> None:
    split, name = assign_splits(rows([1, 1]), "none", "Set")
    assert list(split) == ["test", "test"]
    assert name.startswith("none")
