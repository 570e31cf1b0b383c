"""Ranges of numbers as types of settings: `count: Count`, `share: Share | None`."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low`, excluded if `above`, to `high`; integers alone if `whole`."""

    low: float | int = -math.inf
    high: float | int = math.inf
    above: bool = False
    whole: bool = False

    def __contains__(self, value: float | int) -> bool:
        if self.whole and isinstance(value, float):
            return False
        return math.isfinite(value) and (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"between {self.low:g} and {self.high:g}"
        if math.isfinite(self.low):
            return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return "that is finite"


Count: TypeAlias = Annotated[int, Range(1, whole=True)]
Natural: TypeAlias = Annotated[int, Range(0, whole=True)]
Positive: TypeAlias = Annotated[float | int, Range(0, above=True)]
NotNegative: TypeAlias = Annotated[float | int, Range(0)]
Finite: TypeAlias = Annotated[float | int, Range()]  # may be negative: a negative min_range measures every pair
Share: TypeAlias = Annotated[float | int, Range(0, 1)]
FINITE = Range()


def range_of(hint: Any) -> Range:
    """The range of a type, or of a part of it; all finite numbers if it has none."""
    if get_origin(hint) is Annotated:
        return next((found for found in hint.__metadata__ if isinstance(found, Range)), FINITE)
    return next((found for part in get_args(hint) if (found := range_of(part)) != FINITE), FINITE)


def is_within(value: Any, hint: Any) -> bool:
    """Whether a number, or each number of a sequence, lies in the range of its type; True for other values."""
    if isinstance(value, list | tuple):
        items = ({part for part in get_args(kind) if part is not ...} for kind in (hint, *get_args(hint)))
        of_all = next((parts.pop() for parts in items if len(parts) == 1), Any)
        return all(is_within(item, of_all) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return value in range_of(hint)
