"""A metric in two files, a class and its key, turns up wherever metrics are shown."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sfam_bench.runs.reader import read_run

CLASS = '''
"""Where the peak lies."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfam_bench.core.metric_card import SHARE, MetricCard
from sfam_bench.metrics.shared.base import mask_values


@dataclass(frozen=True)
class Nearness:
    """Nearness of the peak to the middle, 0 in a corner; defined here."""

    card: ClassVar[MetricCard] = MetricCard(
        range=SHARE, group="Localisation", label="peak in the middle", meaning="how near the peak is to the middle"
    )
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, explained):
        rows, cols = explained.maps.shape[-2:]
        peak = explained.maps.flatten(1).argmax(dim=1)
        down, across = (peak // cols + 0.5) / rows - 0.5, (peak % cols + 0.5) / cols - 0.5
        reasons = {"constant_map": explained.maps.flatten(1).std(dim=1) == 0}
        return mask_values(1 - torch.hypot(down, across) * 2**0.5, reasons)
'''
YAML = "peak_in_the_middle: {_target_: recipe_of_a_test.Nearness}\n"


@pytest.fixture
def report(run_script: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report of a run with the new metric, beside one of the package."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "recipe_of_a_test.py").write_text(CLASS)
    (tmp_path / "conf" / "metric").mkdir(parents=True)
    (tmp_path / "conf" / "metric" / "mine.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(tmp_path / "code")
    chosen = [
        "experiment=planted_methods",
        "metric=[mine,pointing_game]",
        "pairs.count=8",
        f"run_dir={tmp_path / 'run'}",
    ]
    explainers = "explainer=[sfam,similarity_decomposition,lafam,chance]"
    code, _, err = run_script("evaluate", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *chosen, explainers)
    assert code == 0, err
    code, _, err = run_script("report", f"runs=[{tmp_path / 'run'}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    facts = read_run(tmp_path / "run").manifest["metrics"]["peak_in_the_middle"]
    assert (facts["label"], facts["family"], facts["role"]) == ("peak in the middle", "peak_in_the_middle", "score")
    return tmp_path / "report"


@pytest.mark.slow
def test_a_metric_of_two_files_has_its_table_its_meaning_its_difference_and_its_worth(report: Path) -> None:
    (path,) = report.glob("table-*.md")
    tables = {part.split("\n")[0]: part for part in path.read_text().split("\n## ")}
    assert "| explainer | peak in the middle ↑ (" in tables["Localisation"]
    assert "| explainer | peak in the middle ↑ (" in tables["Localisation: difference to lafam"]
    differences = pd.read_csv(report / "differences.csv").query("metric == 'peak_in_the_middle'")
    assert set(differences["explainer"]) == {"sfam", "similarity_decomposition", "chance"}
    assert differences["p_holm"].notna().all()
    assert "\n| peak in the middle ↑ |" in (report / "meta.md").read_text()
    assert "how near the peak is to the middle" in (report / "index.html").read_text()
