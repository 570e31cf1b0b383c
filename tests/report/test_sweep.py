"""A field that is swept is drawn along its values."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sfam_bench.report.figures.figures import sweep as module
from sfam_bench.report.figures.sweep import sweeps


def frame(names: list[str]) -> pd.DataFrame:
    run = {
        "dataset": "cub",
        "model": "m",
        "target": "similarity",
        "metric": "deletion_mean_colour",
        "higher_is_better": False,
    }
    rows = [{**run, "explainer": name, "mean": k / 10, "low": k / 11, "high": k / 9} for k, name in enumerate(names)]
    return pd.DataFrame(rows).assign(count=5)


def test_three_values_of_a_field_make_a_sweep_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(module, "draw_along", lambda panels, *sizes: drawn.extend(panels) or Figure())
    found = sweeps(frame(["sfam gamma 1", "lafam", "sfam gamma 0", "sfam gamma 0.5"]), tmp_path)
    assert [path.name for path in found] == [f"sweep-sfam-gamma-cub-m-similarity.{kind}" for kind in ("png", "svg")]
    (shown,) = drawn
    assert (list(shown.part["at"]), list(shown.part["mean"])) == ([0.0, 0.5, 1.0], [0.2, 0.3, 0.0])
    assert list(shown.levels["explainer"]) == ["lafam"]


@pytest.mark.parametrize("names", [["sfam", "lafam"], ["sfam gamma 0", "sfam gamma 1"], ["a 1", "b 2", "c 3"]])
def test_fewer_are_no_sweep(tmp_path: Path, names: list[str]) -> None:
    assert sweeps(frame(names), tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    names = ["sfam gamma 1", "lafam", "sfam gamma 0", "sfam gamma 0.5"]
    first, second = (sweeps(frame(names), tmp_path / k)[1] for k in "ab" if (tmp_path / k).mkdir() is None)
    assert first.read_bytes() == second.read_bytes()
