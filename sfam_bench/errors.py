"""The one error that users see as a line instead of a traceback."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from sfam_bench.ranges import range_of, within


class UserError(Exception):
    """A problem that the caller can mend: the message says what, where and what to do."""


def check_choices(instance: Any) -> None:
    """Raise UserError where a dataclass field is none of the choices of its Literal, or a number out of its range."""
    for field in fields(instance):
        name = f"{type(instance).__name__}.{field.name}"
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(instance, field.name)
        if choices and value not in choices:
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        check_range(name, value, field.type)


def check_range(name: str, value: Any, hint: Any) -> None:
    """Raise UserError where a number is out of the range of its type (sfam_bench.ranges)."""
    if not within(value, hint):
        raise UserError(f"{name} is {value}: expected a number {range_of(hint)}")
