"""What `score` prints below its table."""

import numpy as np
import pandas as pd
import pytest

from sfam_bench.app.commands.score import format_records
from sfam_bench.evaluation.evaluate import PAIR


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0.5, 0.7], "similarity 0.6000, 2 pairs"),
        ([0.5], "similarity 0.5000, 1 pair"),
        ([0.5, np.nan, 0.7], "similarity 0.6000, 2 pairs of 3"),  # one is an image paired with itself
        ([np.nan], "similarity nan, 0 pairs of 1"),
    ],
)
def test_the_mean_is_of_the_pairs_that_are_counted(values: list[float], line: str) -> None:
    records = pd.DataFrame({"target": "similarity", "explainer": PAIR, "metric": "s_full", "value": values, "flag": ""})
    records.attrs["metrics"] = {}
    assert format_records(records).splitlines()[-1] == line
