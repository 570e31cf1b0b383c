"""MaxBoxAccV2: of the boxes at many thresholds, those of the one threshold that serves a whole data set best."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.runs.reader import Run
from sfam_bench.statistics import FACTS, PAIR, RUN, exclusion_reasons

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
COLUMNS = [*RUN, "explainer", "delta", "accuracy", "threshold", "count"]


def thresholds_of(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The threshold of each metric of the family; these have no tables of their own."""
    metrics = manifest.get("metrics") or {}
    return {name: float(facts["threshold"]) for name, facts in metrics.items() if facts.get("family") == FAMILY}


def max_box_accuracy(
    records: pd.DataFrame, thresholds: Mapping[str, float], deltas: Sequence[float] = DELTAS
) -> pd.DataFrame:
    """Per cent of pairs whose box meets the object's with an IoU of at least `delta`; Choe et al., CVPR 2020.

    One row for each run, explainer and delta, at the threshold that is best for it over all pairs (the lowest of
    equals), and one of their mean, MaxBoxAccV2, whose delta and threshold are NaN. Only pairs that have a box at every
    threshold count. The threshold is chosen on the pairs that it is scored on, as there. `thresholds` are those of the
    metrics of the family.
    """
    rows = []
    for names, wide in _wide(records, thresholds):
        best = [(delta, *_best(wide, delta), len(wide)) for delta in deltas]
        mean = float(np.mean([accuracy for _, accuracy, *_ in best]))
        rows += [(*names, *row) for row in [*best, (np.nan, mean, np.nan, len(wide))]]
    return pd.DataFrame(rows, columns=COLUMNS)


def with_box_accuracy(run: Run) -> Run:
    """The run with `max_box_accuracy` in place of its family: for each pair the mean of its hits over deltas.

    So MaxBoxAccV2 is its mean, and has intervals and differences as any metric; the thresholds are held.
    """
    thresholds = thresholds_of(run.manifest)
    family = run.records["metric"].isin(thresholds)
    if not family.any():
        return run
    best = max_box_accuracy(run.records, thresholds).dropna(subset="threshold")
    own = run.records[family].drop_duplicates([*RUN, "explainer", *PAIR])
    chosen = own.assign(metric=NAME).set_index([*RUN, "explainer", *PAIR])
    chosen["value"] = np.nan
    for names, wide in _wide(run.records, thresholds):
        mine = best[(best[[*RUN, "explainer"]] == list(names)).all(axis=1)]
        hits = [wide[threshold] >= delta for delta, threshold in mine[["delta", "threshold"]].to_numpy()]
        if hits:
            chosen.loc[[(*names, *pair) for pair in wide.index], "value"] = 100 * np.mean(hits, axis=0)
    chosen.loc[chosen["value"].notna(), "flag"] = ""
    records = pd.concat([run.records[~family], chosen.reset_index()[run.records.columns]], ignore_index=True)
    described = metric_facts({NAME: Described(CARD, higher_is_better=True)})
    metrics: dict[str, Any] = {}
    for name, facts in run.manifest["metrics"].items():
        metrics |= described if name in thresholds else {name: facts}
    return replace(run, records=records, manifest={**run.manifest, "metrics": metrics})


def _wide(records: pd.DataFrame, thresholds: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """For each run and explainer, IoU by pair and threshold, over the pairs that have all thresholds."""
    found = records[records["metric"].isin(thresholds) & (records["explainer"] != FACTS)]
    found = found.drop_duplicates([*RUN, "explainer", "metric", *PAIR])
    found = found.assign(
        threshold=found["metric"].astype(str).map(thresholds),
        value=found["value"].where((exclusion_reasons(found) == "").to_numpy()),
    )
    for names, part in found.groupby([*RUN, "explainer"], sort=False, observed=True):
        yield names, part.pivot(index=PAIR, columns="threshold", values="value").dropna()  # type: ignore[misc]


def _best(wide: pd.DataFrame, delta: float) -> tuple[float, float]:
    """Per cent at the best threshold, and the threshold."""
    if wide.empty:
        return np.nan, np.nan
    accuracy = 100 * (wide >= delta).mean().to_numpy()
    return float(accuracy.max()), float(wide.columns.to_numpy(dtype=float)[accuracy.argmax()])
