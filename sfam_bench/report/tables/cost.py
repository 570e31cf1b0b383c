"""Costs from a manifest as rows of a summary, so that tables show them like any metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.runs.reader import Run
from sfam_bench.statistics import NOT_COMPARED, RUN

LABELS = {
    "milliseconds": "milliseconds per map",
    "forwards": "forward passes per map",
    "backwards": "backward passes per map",
    "megabytes": "megabytes per map",
}
MEANINGS = {
    "milliseconds": "time per map, over the run, of all processor cores; on a GPU, and in older runs, of the clock",
    "forwards": "images through the trunk per map, beyond encoding the pair once",
    "backwards": "gradients back to the trunk per map",
    "megabytes": "peak memory of tensors per map",
}


def cost_key(measure: str) -> str:
    """The metric key of a measure of cost."""
    return f"cost_{measure}"


COSTS = metric_facts(
    {
        cost_key(measure): Described(
            MetricCard(group="Cost", label=text, meaning=MEANINGS[measure], family="cost"), False
        )
        for measure, text in LABELS.items()
    }
)


def cost_rows(run: Run) -> pd.DataFrame:
    """One row for each explainer and measure of cost; passes and memory of one pair, time over the run.

    Nobody is best: the cheapest are the controls.
    """
    facts = run.manifest.get("cost") or {}
    keys = [str(run.manifest.get(name, "")) for name in RUN]
    rows = [
        _row(keys, name, measure, found[measure], found.get("pairs", len(run.pairs)))  # those of joined runs differ
        for name, found in facts.items()
        for measure in found
        if measure in LABELS
    ]
    return pd.DataFrame(rows)


def _row(keys: list[str], explainer: str, measure: str, value: float, pairs: int) -> Mapping[str, Any]:
    count = pairs if measure == "milliseconds" else 1
    return {
        **dict(zip(RUN, keys, strict=True)),
        **{"explainer": explainer, "metric": cost_key(measure), "mean": value, "low": np.nan, "high": np.nan},
        **{"count": count, "clusters": 0, "clustered": True, "flagged": "", "higher_is_better": False},
        **NOT_COMPARED,
    }
