"""Explainers and metrics whose names records and files could not keep apart are refused."""

import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import check_names


@pytest.mark.parametrize("name", ["pair", "", " ", "a/b", "a\\b", " sfam", "sfam\n", "a\tb"])
def test_explainers(name: str) -> None:
    with pytest.raises(UserError, match=r"the explainer .*: choose another"):
        check_names(["sfam", name], [])


@pytest.mark.parametrize("name", ["s_full", "s_headless", "s_base_mean_colour", "", "a/b"])
def test_metrics(name: str) -> None:
    with pytest.raises(UserError, match=r"the metric .*: choose another"):
        check_names([], ["deletion_mean_colour", name])


def test_what_is_in_use() -> None:
    check_names(
        ["sfam", "sfam gamma 0.25", "lite0 (tuned)", "RISE, 1000 masks"], ["pair", "deletion_mean_colour", "s_fuller"]
    )
