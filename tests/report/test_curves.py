"""Curves out of a run folder, drawn again; costs as rows of the tables."""

import json

import pandas as pd
import pytest
from PIL import Image

from sfam_bench.core.records import Curve
from sfam_bench.report.writer import write_report
from sfam_bench.runs.chunks import CURVES
from sfam_bench.runs.reader import read_curves
from sfam_bench.runs.store import RunStore
from tests.report.conftest import make_run, rewrite_records


def walk(explainer, pair, drop):
    fraction = [0.0, 0.25, 0.5, 1.0]
    return Curve(explainer, "deletion_mean_colour", *pair, fraction, [1.0, 1 - drop, 1 - 2 * drop, 0.1])


@pytest.mark.slow
def test_curves_and_costs_of_a_run_reach_its_report(tmp_path):
    root = make_run(tmp_path / "run", "a $model$", 0)
    pairs = pd.read_parquet(root / "pairs.parquet")
    store = RunStore.create(root, {"model": "a $model$", "seed": 0}, {}, resume=True)
    ids = list(zip(pairs["query_id"], pairs["reference_id"], strict=True))
    lines = [walk(name, pair, drop) for pair in ids for name, drop in (("sfam", 0.3), ("lafam", 0.1))]
    records = pd.read_parquet(root / "records" / "00000.parquet")
    rewrite_records(root, 0, records, lines)
    manifest = json.loads((root / "manifest.json").read_text())
    costs = {"sfam": {"forwards": 0.0, "milliseconds": 1.25}, "rise": {"forwards": 1008.0, "milliseconds": 900.0}}
    store.write_manifest({**manifest, "cost": costs})

    report = write_report([root], tmp_path / "out")
    picture = Image.open(tmp_path / "out" / "curves-cub-a-model-similarity-1.png")
    assert picture.width > 400
    assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 8
    rows = report.summary[report.summary["metric"] == "cost_forwards"].set_index("explainer")
    assert rows["mean"].to_dict() == {"sfam": 0.0, "rise": 1008.0}
    assert not rows["best"].any()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "forward passes per map" in page
    assert "1008" in page


@pytest.mark.slow
def test_a_run_without_curves_has_none_and_says_nothing(tmp_path):
    root = make_run(tmp_path / "run", "m", 0)
    assert read_curves(root).empty
    assert list(read_curves(root).columns) == CURVES.names
    write_report([root], tmp_path / "out")
    assert not list((tmp_path / "out").glob("curves-*"))
