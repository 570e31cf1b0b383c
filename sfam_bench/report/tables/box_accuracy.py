"""MaxBoxAccV2: of the boxes at many thresholds, those of the one threshold that serves a whole data set best."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.runs.matrix import NO_REASON, Matrix
from sfam_bench.runs.reader import Run

FAMILY = "box_iou"  # of metrics.boxes.BoxIoU
DELTAS = (0.3, 0.5, 0.7)
NAME = "max_box_accuracy"
CARD = MetricCard(
    range=(0, 100),
    group="Localisation",
    label="MaxBoxAccV2",
    meaning="boxes of the map that meet the object's at one best threshold, percent",
    family=NAME,
)
COLUMNS = ["explainer", "delta", "accuracy", "threshold", "count"]


def thresholds_of(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The threshold of each metric of the family; these have no tables of their own."""
    metrics = manifest.get("metrics") or {}
    return {name: float(facts["threshold"]) for name, facts in metrics.items() if facts.get("family") == FAMILY}


def max_box_accuracy(matrix: Matrix, thresholds: Mapping[str, float], deltas: Sequence[float] = DELTAS) -> pd.DataFrame:
    """Per cent of pairs whose box meets the object's with an IoU of at least `delta`; Choe et al., CVPR 2020.

    One row for each explainer and delta, at the threshold that is best for it over all pairs (the lowest of equals),
    and one of their mean, MaxBoxAccV2, whose delta and threshold are NaN. Only pairs that have a box at every threshold
    count. The threshold is chosen on the pairs that it is scored on, as there. `thresholds` are those of the metrics of
    the family.
    """
    rows = []
    for explainer, boxes in _boxes(matrix, thresholds):
        best = [(delta, *_best(boxes, delta), len(boxes)) for delta in deltas]
        mean = float(np.mean([accuracy for _, accuracy, *_ in best]))
        rows += [(explainer, *row) for row in [*best, (np.nan, mean, np.nan, len(boxes))]]
    return pd.DataFrame(rows, columns=COLUMNS)


def with_box_accuracy(run: Run) -> Run:
    """The run with `max_box_accuracy` in place of its family: for each pair the mean of its hits over deltas.

    So MaxBoxAccV2 is its mean, and has intervals and differences as any metric; the thresholds are held.
    """
    thresholds, matrix = thresholds_of(run.manifest), run.matrix
    family = matrix.select(lambda metric, _: metric in thresholds)
    if not family.columns:
        return run
    others = matrix.select(lambda metric, _: metric not in thresholds)
    entries, codes = dict(others.entries), dict(others.codes)
    for explainer, boxes in _boxes(family, thresholds):
        best = [_best(boxes, delta)[1] for delta in DELTAS] if len(boxes) else []
        hits = [boxes[threshold] >= delta for threshold, delta in zip(best, DELTAS, strict=False)]
        values = np.full(len(matrix.pairs), np.nan)
        values[boxes.index] = 100 * np.mean(hits, axis=0) if hits else np.nan
        # a pair without a box at every threshold keeps the reason of the first one
        first = next(column for column in family.columns if column[1] == explainer)
        entries[NAME, explainer] = values
        why = np.where(family.codes[first], family.codes[first], matrix.reasons.index(NO_REASON))
        codes[NAME, explainer] = np.where(np.isfinite(values), 0, why).astype(np.uint8)
    described = metric_facts({NAME: Described(CARD, higher_is_better=True)})
    metrics: dict[str, Any] = {}
    for name, facts in run.manifest["metrics"].items():
        metrics |= described if name in thresholds else {name: facts}
    changed = replace(matrix, entries=entries, codes=codes)
    return replace(run, matrix=changed, manifest={**run.manifest, "metrics": metrics})


def _boxes(matrix: Matrix, thresholds: Mapping[str, float]) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each explainer, IoU by row of the matrix and threshold, over the pairs that have all thresholds."""
    for explainer in matrix.explainers:
        own = {thresholds[m]: matrix.entries[m, explainer] for m in thresholds if (m, explainer) in matrix.entries}
        if own:
            yield explainer, pd.DataFrame({threshold: own[threshold] for threshold in sorted(own)}).dropna()


def _best(boxes: pd.DataFrame, delta: float) -> tuple[float, float]:
    """Per cent at the best threshold, and the threshold."""
    if boxes.empty:
        return np.nan, np.nan
    accuracy = 100 * (boxes >= delta).mean().to_numpy()
    return float(accuracy.max()), float(boxes.columns.to_numpy(dtype=float)[accuracy.argmax()])
