"""The one error that users see as a line instead of a traceback."""

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


class UserError(Exception):
    """A problem that the caller can mend: the message says what, where and what to do."""


def check_choices(instance: Any) -> None:
    """Raise UserError where a dataclass field typed Literal holds something else (YAML knows no types)."""
    for field in fields(instance):
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(instance, field.name)
        if choices and value not in choices:
            raise UserError(
                f"{type(instance).__name__}.{field.name} is {value!r}: choose one of {', '.join(map(str, choices))}"
            )


def check_number(
    name: str, value: float | int | None, low: float | int, above: bool = False, high: float | int = math.inf
) -> None:
    """Raise UserError where a setting is not finite, below `low` (or equal to it, with `above`) or over `high`."""
    if value is None or (math.isfinite(value) and value <= high and (value > low if above else value >= low)):
        return
    least = f"greater than {low:g}" if above else f"at least {low:g}"
    most = f" and at most {high:g}" if math.isfinite(high) else ""
    raise UserError(f"{name}={value}: it must be {least}{most}")
