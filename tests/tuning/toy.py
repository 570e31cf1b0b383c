"""A study that needs no network, so that a process of it imports none."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd

from sfam_bench.tuning.spaces import Space
from sfam_bench.tuning.studies import Study

SPACE = Space("method", {"x": {"low": 0.0, "high": 2.0}, "kind": ["a", "b", "c"]})
DEFAULT = {"x": 1.0, "kind": "a"}


def opened(path: Path, space: Space = SPACE, default: Mapping[str, Any] = DEFAULT, **more: Any) -> Any:
    settings = {"higher": True, "seed": 3, "identity": "one", "known": False, **more}
    found: AbstractContextManager[Study] = Study.open(path, space, default, **settings)
    return found


def measure(fields: Mapping[str, Any]) -> pd.Series:
    """Best at x = 0.3 and kind b; one pair that nothing defines."""
    value = -((fields["x"] - 0.3) ** 2) + 0.1 * (fields["kind"] == "b")
    return pd.Series([value - 1, value + 1, math.nan])
