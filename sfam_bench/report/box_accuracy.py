"""MaxBoxAccV2: of the boxes at many thresholds, those of the one threshold that serves a whole data set best."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from sfam_bench.statistics import FACTS, RUN, reasons

FAMILY = re.compile(r"box_iou_(\d\d)")  # the threshold in per cent, as conf/metric/box.yaml names the metrics
DELTAS = (0.3, 0.5, 0.7)
COLUMNS = [*RUN, "explainer", "delta", "accuracy", "threshold", "count"]


def in_family(metric: str) -> bool:
    """Whether a metric is one of the thresholds, which stand in no table of their own."""
    return FAMILY.fullmatch(metric) is not None


def max_box_accuracy(records: pd.DataFrame, deltas: Sequence[float] = DELTAS) -> pd.DataFrame:
    """Per cent of pairs whose box meets the object's with an IoU of at least `delta`; Choe et al., CVPR 2020.

    One row for each run, explainer and delta, at the threshold that is best for it over all pairs (the lowest of
    equals), and one of their mean, MaxBoxAccV2, whose delta and threshold are NaN. Only pairs that have a box at every
    threshold count. The threshold is chosen on the pairs that it is scored on, as there.
    """
    found = records[records["metric"].map(in_family).astype(bool) & (records["explainer"] != FACTS)]
    found = found.drop_duplicates([*RUN, "explainer", "metric", "query_id", "reference_id"])
    found = found.assign(
        threshold=found["metric"].astype(str).str[-2:].astype(int) / 100,
        value=found["value"].where((reasons(found) == "").to_numpy()),
    )
    rows = []
    for names, part in found.groupby([*RUN, "explainer"], sort=False, observed=True):
        wide = part.pivot(index=["query_id", "reference_id"], columns="threshold", values="value").dropna()
        best = [(delta, *_best(wide, delta), len(wide)) for delta in deltas]
        mean = float(np.mean([accuracy for _, accuracy, *_ in best]))
        rows += [(*names, *row) for row in [*best, (np.nan, mean, np.nan, len(wide))]]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(wide: pd.DataFrame, delta: float) -> tuple[float, float]:
    """Per cent at the best threshold, and the threshold."""
    if wide.empty:
        return np.nan, np.nan
    accuracy = 100 * (wide >= delta).mean().to_numpy()
    return float(accuracy.max()), float(wide.columns.to_numpy(dtype=float)[accuracy.argmax()])
