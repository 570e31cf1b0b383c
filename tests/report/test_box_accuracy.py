"""MaxBoxAccV2 in a report: a metric as any other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.boxes import BoxIoU
from sfam_bench.report.tables.box_accuracy import max_box_accuracy, thresholds_of, with_box_accuracy
from sfam_bench.runs.matrix import Matrix
from sfam_bench.runs.reader import Run, read_records, read_run
from sfam_bench.statistics import summarise


@pytest.fixture
def boxed(fake_run: Path) -> Run:
    """A run with IoUs at three thresholds, and a pair that is flagged."""
    run, rng = read_run(fake_run), np.random.default_rng(0)
    one = read_records(run.root)[read_records(run.root)["metric"] == "deletion_mean_colour"]
    frames = [one.assign(metric=f"box_iou_{t}", value=rng.random(len(one)), flag="") for t in (10, 20, 30)]
    for frame in frames:
        frame.loc[frame.index[:1], ["value", "flag"]] = [np.nan, "constant_map"]
    metrics = {**run.manifest["metrics"], **metric_facts({f"box_iou_{t}": BoxIoU(t / 100) for t in (10, 20, 30)})}
    records = pd.concat([read_records(run.root), *frames], ignore_index=True)
    return replace(run, matrix=Matrix.of(records, run.pairs), manifest={**run.manifest, "metrics": metrics})


def test_its_mean_is_that_of_the_data_set_at_one_threshold_each(boxed: Run) -> None:
    found = with_box_accuracy(boxed)
    assert not any(metric.startswith("box_iou") for metric in found.matrix.metrics)
    assert "box_iou_10" not in found.manifest["metrics"]
    table = summarise(found.matrix, found.manifest["metrics"])
    table = table[table["metric"] == "max_box_accuracy"].set_index("explainer")
    expected = max_box_accuracy(boxed.matrix, thresholds_of(boxed.manifest))
    expected = expected[expected["delta"].isna()].set_index("explainer")
    pd.testing.assert_series_equal(table["mean"], expected["accuracy"], check_names=False, check_like=True)
    assert table["low"].lt(table["mean"]).all()
    assert table["count"].to_dict() == expected["count"].to_dict()
    assert "constant_map 1" in table["flagged"].to_list()


def test_a_run_without_boxes_stays_as_it_is(fake_run: Path) -> None:
    run = read_run(fake_run)
    assert with_box_accuracy(run) is run
