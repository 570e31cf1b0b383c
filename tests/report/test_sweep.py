"""A number in which explainers differ is drawn along its values, whatever the explainers are called."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sfam_bench.core.method_card import method_settings
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.report.figures import sweep as module
from sfam_bench.report.figures.sweep import draw_sweeps, find_sweeps
from tests.report.conftest import METRICS

GAMMAS = {"whole": SFAM(gamma=1.0), "lafam": LaFAM(), "none": SFAM(gamma=0.0), "half": SFAM(gamma=0.5)}


def frame(names: list[str]) -> pd.DataFrame:
    run = {"dataset": "cub", "model": "m", "target": "similarity", "metric": "deletion_mean_colour"}
    rows = [
        {**run, "higher_is_better": False, "explainer": name, "mean": k / 10, "low": k / 11, "high": k / 9}
        for k, name in enumerate(names)
    ]
    return pd.DataFrame(rows).assign(count=5)


def manifest(explainers: dict[str, Any]) -> dict[str, Any]:
    return {"metrics": METRICS, "explainer_settings": {name: method_settings(e) for name, e in explainers.items()}}


def test_three_values_of_a_field_make_a_sweep_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(module, "draw_along", lambda panels, *sizes: drawn.extend(panels) or Figure())
    found = draw_sweeps(frame([*GAMMAS]), manifest(GAMMAS), tmp_path)
    assert [path.name for path in found] == [f"sweep-sfam-gamma-cub-m-similarity.{kind}" for kind in ("png", "svg")]
    (shown,) = drawn
    assert (list(shown.part["at"]), list(shown.part["mean"])) == ([0.0, 0.5, 1.0], [0.2, 0.3, 0.0])
    assert list(shown.levels["explainer"]) == ["lafam"]


def test_of_equal_settings_the_first_counts_and_other_settings_sweep_apart() -> None:
    relu = {f"relu {gamma}": SFAM(gamma=gamma, relu=True) for gamma in (0.0, 1.0, 2.0)}
    plain, other = find_sweeps(manifest({**GAMMAS, "again": SFAM(gamma=0.5), **relu}))
    assert plain.points == {"none": 0.0, "half": 0.5, "whole": 1.0}
    assert (plain.kind, plain.field, [*other.points]) == ("SFAM", "gamma", [*relu])


@pytest.mark.parametrize(
    "explainers",
    [
        {"sfam": SFAM(), "lafam": LaFAM()},
        {"sfam gamma 0": SFAM(gamma=0.0), "sfam gamma 1": SFAM(gamma=1.0)},
        {"a": RISE(masks=1, seed=1), "b": RISE(masks=2, seed=2), "c": RISE(masks=3, seed=3)},
    ],
)
def test_fewer_are_no_sweep_nor_those_that_differ_in_more(tmp_path: Path, explainers: dict[str, Any]) -> None:
    assert draw_sweeps(frame([*explainers]), manifest(explainers), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    found = []
    for name in "ab":
        (tmp_path / name).mkdir()
        found.append(draw_sweeps(frame([*GAMMAS]), manifest(GAMMAS), tmp_path / name)[1].read_bytes())
    assert found[0] == found[1]
