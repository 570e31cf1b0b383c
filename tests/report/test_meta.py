"""The part of the page that judges metrics."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.causal import CausalAgreement
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables import meta
from sfam_bench.report.tables.meta import Measured, write_meta
from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics import summarise
from sfam_bench.statistics import worth as judged

METRICS = metric_facts(
    {"deletion_mean_colour": Perturbation("deletion"), "insertion_mean_colour": Perturbation("insertion")}
)
RUN = {"dataset": "cub", "model": "lite0", "target": "similarity", "reference_id": "r", "flag": ""}
LEVELS = {judged.EXACT: 0.3, "sfam": 0.28, "grad_cam": 0.1, "lafam": 0.25, "chance": 0.0}


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Deletion tells explainers apart; insertion is noise."""
    rng, count = np.random.default_rng(0), 40
    rows = [
        {**RUN, "explainer": name, "metric": metric, "query_id": f"q{n}", "value": value + rng.normal(0, spread)}
        for name, level in LEVELS.items()
        for metric, value, spread in (("deletion_mean_colour", -level, 0.02), ("insertion_mean_colour", 0.0, 1.0))
        for n in range(count)
    ]
    pairs = pd.DataFrame(
        {"query_id": [f"q{n}" for n in range(count)], "reference_id": "r", "query_label": np.arange(count) // 4}
    )
    return pd.DataFrame(rows), pairs


@pytest.fixture(scope="module")
def found(frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory):
    records, pairs = frames
    out = tmp_path_factory.mktemp("meta")
    tells, ranks = (
        judged.separation(Matrix.of(records, pairs), METRICS),
        judged.ranks(Matrix.of(records, pairs), METRICS),
    )
    runs = [Measured(tells, ranks, ("lafam", "chance"))]
    return write_meta(runs, summarise(Matrix.of(records, pairs), METRICS), Catalogue(METRICS), out), out


def test_a_metric_that_does_not_separate_is_named(found) -> None:
    section, _ = found
    table = section.tables[0]
    cells = {name.split(" ")[0].lower(): [cell.text for cell in row] for name, row in table.rows}
    assert cells["deletion"][:2] == ["separates", "separates"]
    assert cells["insertion"][0] == "does not separate"


def test_tables_and_pictures_are_written(found) -> None:
    section, out = found
    for name in ("tells", "ranks", "agreement", "tau"):
        assert len(pd.read_csv(out / f"meta-{name}.csv"))
    assert "does not separate" in (out / "meta.md").read_text()
    assert r"\begin{tabular" in (out / "meta.tex").read_text()
    assert section.pictures
    assert all(path.is_file() for path, _ in section.pictures)
    assert section.title == meta.TITLE


def test_mean_ranks_have_the_marks_of_the_means(found, frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    section, _ = found
    (table,) = (table for table in section.tables if "mean ranks" in table.title)
    rows = dict(table.rows)
    assert rows["chance"][0].text == "5.0"
    means = summarise(Matrix.of(*frames), METRICS).set_index(["metric", "explainer"])
    for place, metric in enumerate(METRICS):
        for name, row in rows.items():
            assert (row[place].best, row[place].tied) == tuple(means.loc[(metric, name), ["best", "tied"]])
    assert rows[judged.EXACT][0].best
    assert not rows["chance"][0].tied


def test_without_metrics_there_is_no_part(tmp_path: Path) -> None:
    rows = pd.DataFrame([{**RUN, "explainer": "pair", "metric": "s_full", "query_id": "q0", "value": 0.5}])
    pairs = pd.DataFrame({"query_id": ["q0"], "reference_id": ["r"], "query_label": [0]})
    nothing = Measured(judged.separation(Matrix.of(rows, pairs), {}), judged.ranks(Matrix.of(rows, pairs), {}), ())
    assert write_meta([nothing], summarise(Matrix.of(rows, pairs), {}), Catalogue({}), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_metric_that_orders_explainers_as_their_measured_cause_comes_first(
    frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    records, pairs = frames
    cause = records[records["metric"] == "deletion_mean_colour"].assign(metric="cause")
    cause["value"] = -cause["value"]
    metrics = {**METRICS, **metric_facts({"cause": CausalAgreement()})}
    matrix = Matrix.of(pd.concat([records, cause]), pairs)
    runs = [Measured(judged.separation(matrix, metrics), judged.ranks(matrix, metrics), ("lafam", "chance"))]
    section = write_meta(runs, summarise(matrix, metrics), Catalogue(metrics), tmp_path)
    assert section is not None
    first = section.tables[0]
    assert first.title == "Which metrics predict the measured cause?"
    assert [name.split(" ")[0] for name, _ in first.rows] == ["deletion", "insertion"]
    assert [cell.text for cell in first.rows[0][1]] == ["1.00", "1.00"]
    stored = pd.read_csv(tmp_path / "meta-predicts.csv").set_index("metric")
    assert stored.loc["deletion_mean_colour", ["explainers", "pair_dependent"]].tolist() == [5, 3]
